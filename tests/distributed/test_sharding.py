"""Models that are built sharded are the models that are built whole."""

import json
import os
import re
import resource
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration

from laid.checkpoints.checkpoint_io import AtomicCheckpointIO
from laid.checkpoints.sharded_checkpoints import save_sharded
from laid.common.errors import UserError
from laid.distributed.sharded_tensors import full_tensor
from laid.signals.model_signals import Wanted
from laid.training.placement import Placement
from laid.vlm.families.qwen2_5_vl import Qwen25VL
from laid.vlm.lora import LoraArgs
from laid.vlm.model_loading import ModelArgs, load_model
from laid.vlm.model_paths import model_folder
from laid.vlm.rope_gain import RopeGainArgs
from laid.vlm.vision_language_model import VLM
from laid.vlm.window_extension import SelfExtendArgs, YarnArgs

EVERYTHING = Wanted(layers=(0, 1), logits=True)


def built(mesh, args, inputs, teacher=False, compute=None):
    """What one rank has: its share, the whole, buffers, logits, an answer."""
    place = Placement(mesh, compute)
    vlm = place.teacher(args) if teacher else place.student(args)
    share = {name: p.to_local().clone() for name, p in vlm.hf.named_parameters()}
    found = {name: full_tensor(p.detach()) for name, p in vlm.hf.named_parameters()}
    with torch.no_grad():
        signals = vlm.signals(inputs, EVERYTHING)
    answer = vlm.answer(inputs, 3)
    after = {p.dtype for p in vlm.parameters()}
    return share, found, dict(vlm.hf.named_buffers()), signals.logits_NV, answer, after


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


def from_pretrained(path, inputs, dtype=torch.float32):
    hf = Qwen2_5_VLForConditionalGeneration.from_pretrained(path, dtype=dtype)
    vlm = VLM(hf.eval())
    hf.model.visual.requires_grad_(False)
    with torch.no_grad():
        logits_NV = vlm.signals(inputs, EVERYTHING).logits_NV
    return dict(hf.named_parameters()), dict(hf.named_buffers()), logits_NV, vlm.answer(inputs, 3)


@pytest.fixture
def inputs(haystacks):
    return haystacks(rows=range(2)).inputs


@pytest.mark.parametrize("ranks", [2, 4])
def test_parameters_buffers_logits_and_answers_equal_from_pretrained(on_ranks, pair, inputs, ranks):
    parameters, buffers, logits_NV, answer = from_pretrained(pair[0], inputs)
    results = on_ranks(ranks, built, ModelArgs(str(pair[0])), inputs)
    for _, found, of_rank, logits, said, _ in results:
        assert_equal(found, parameters)
        assert_equal(of_rank, buffers)
        assert torch.equal(logits, logits_NV)
        assert torch.equal(said, answer)
    total = sum(p.numel() for p in parameters.values())
    for share, *_ in results:
        assert sum(p.numel() for p in share.values()) < 1.1 * total / ranks


def with_more(mesh, args, more, inputs):
    """The same of a model with adapters and gains or a longer window; adapters as one process
    draws them."""
    torch.manual_seed(3)
    vlm = Placement(mesh).student(args, **more)
    with torch.no_grad():
        logits_NV = vlm.signals(inputs, EVERYTHING).logits_NV
    found = {name: full_tensor(p.detach()) for name, p in vlm.hf.named_parameters()}
    return found, dict(vlm.hf.named_buffers()), logits_NV, vlm.answer(inputs, 3), vlm.base


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "more",
    [
        {
            "lora": LoraArgs(rank=4, target_modules=["q_proj", "down_proj"]),
            "gain": RopeGainArgs([1]),
        },
        {"extension": YarnArgs(4.0, 64)},
        {"extension": SelfExtendArgs(4, 8)},
    ],
    ids=["lora and gains", "yarn", "self-extend"],
)
def test_adapters_gains_and_window_extensions_are_those_of_one_process(
    on_ranks, pair, inputs, more, dtype
):
    args = ModelArgs(str(pair[0]), dtype=dtype)
    found, buffers, logits_NV, answer, base = with_more(None, args, more, inputs)
    for of_rank in on_ranks(2, with_more, args, more, inputs):
        assert_equal(of_rank[0], found)
        assert_equal(of_rank[1], buffers)
        assert torch.equal(of_rank[2], logits_NV)
        assert torch.equal(of_rank[3], answer)
        assert of_rank[4] == base


def refusal(mesh, args):
    try:
        Placement(mesh).student(args, gain=RopeGainArgs())
    except UserError as error:
        return str(error)


def test_gains_beside_trained_weights_of_another_dtype_are_refused(on_ranks, pair):
    (said,) = on_ranks(1, refusal, ModelArgs(str(pair[0]), dtype="bfloat16"))
    assert "model.rope_gain is float32 and model.student.dtype bfloat16" in said


def test_a_teacher_in_bfloat16_equals_from_pretrained(on_ranks, pair, inputs):
    parameters, buffers, logits_NV, _ = from_pretrained(pair[1], inputs, torch.bfloat16)
    args = ModelArgs(str(pair[1]), dtype="bfloat16")
    for _, found, of_rank, logits, _, dtypes in on_ranks(2, built, args, inputs, True):
        assert_equal(found, parameters)
        assert_equal(of_rank, buffers)  # the rotary frequencies are not rounded
        assert torch.equal(logits, logits_NV)
        assert dtypes == {torch.bfloat16}


def test_a_student_computes_in_bfloat16_and_is_held_in_float32(on_ranks, pair, inputs):
    parameters, _, logits_NV, _ = from_pretrained(pair[0], inputs)
    args = ModelArgs(str(pair[0]))
    for _, found, _, logits, _, dtypes in on_ranks(2, built, args, inputs, False, torch.bfloat16):
        assert_equal(found, parameters)
        assert dtypes == {torch.float32}
        assert logits.dtype == torch.bfloat16
        torch.testing.assert_close(logits.float(), logits_NV, atol=0.1, rtol=0.1)


@pytest.fixture
def hub_names(pair, tmp_path):
    """The student in two files, with the names that transformers 4 gave its tensors."""
    folder = tmp_path / "hub"
    shutil.copytree(pair[0], folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()

    def old(name):
        name = name.replace("model.visual.", "visual.")
        return name.replace("model.language_model.", "model.")

    state = {old(Qwen25VL.parameter_name(key)): value for key, value in state.items()}
    assert "model.layers.0.mlp.up_proj.weight" in state
    assert any(key.startswith("visual.") for key in state)
    where = {}
    for part in range(2):
        name = f"model-0000{part + 1}-of-00002.safetensors"
        some = {key: state[key] for key in sorted(state)[part::2]}
        save_file(some, folder / name, {"format": "pt"})
        where |= dict.fromkeys(some, name)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_the_hubs_names_and_several_files(on_ranks, pair, hub_names, inputs):
    parameters, _, logits_NV, _ = from_pretrained(pair[0], inputs)
    assert_equal(from_pretrained(hub_names, inputs)[0], parameters)
    for _, found, _, logits, _, _ in on_ranks(2, built, ModelArgs(str(hub_names)), inputs):
        assert_equal(found, parameters)
        assert torch.equal(logits, logits_NV)


def test_a_head_that_is_tied_to_the_embedding(on_ranks, pair, tmp_path, inputs):
    folder = tmp_path / "tied"
    shutil.copytree(pair[0], folder)
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    state = load_file(folder / "model.safetensors")
    del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    parameters, _, logits_NV, answer = from_pretrained(folder, inputs)
    assert "lm_head.weight" not in parameters
    for _, found, _, logits, said, _ in on_ranks(2, built, ModelArgs(str(folder)), inputs):
        assert_equal(found, parameters)
        assert torch.equal(logits, logits_NV)
        assert torch.equal(said, answer)


def test_random_weights_are_the_same_for_any_number_of_ranks(on_ranks, pair, inputs):
    args = ModelArgs(str(pair[0]), random_weights=True, seed=3)
    expected = dict(load_model(args).named_parameters())
    matrix = expected["lm_head.weight"]
    assert matrix.std().item() == pytest.approx(0.08, rel=0.05)
    for _, found, *_ in on_ranks(3, built, args, inputs):
        assert_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("lm_head.weight"), "1 of .* parameters are in none"),
        (
            lambda state: state.update({"lm_head.weight": torch.zeros(3, 4)}),
            r"lm_head.weight of .* is \[3, 4\], expected",
        ),
    ],
    ids=["missing", "other shape"],
)
def test_files_that_do_not_fit_are_refused(pair, tmp_path, change, message):
    from laid.vlm.model_loading import empty_model, materialise
    from laid.vlm.weight_files import all_rows

    folder = tmp_path / "wrong"
    shutil.copytree(pair[0], folder)
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    args = ModelArgs(str(folder))
    with pytest.raises(ValueError, match=message):
        materialise(empty_model(args), args, "cpu", all_rows)


def test_a_model_of_the_hub_is_found_where_it_was_brought(pair, tmp_path, monkeypatch):
    """The hub's own cache, without the hub."""
    snapshot = tmp_path / "models--some--model" / "snapshots" / "abc"
    shutil.copytree(pair[0], snapshot)
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert model_folder("some/model", None) == snapshot
    with pytest.raises(ValueError, match="cannot load the files of 'some/other'"):
        model_folder("some/other", None)


def test_the_plain_loader_does_not_need_a_process_group(pair):
    assert not os.environ.get("RANK")
    assert Placement().student(ModelArgs(str(pair[0]))).in_step is False


def on_a_full_disk(mesh, save, path):
    """What saving ten megabytes says where files can't grow beyond ten kilobytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        save({"state_dict": {"weight": torch.zeros(2_500_000)}}, path)
    except UserError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    return "saved"


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_checkpoint_that_can_not_be_written_is_named_and_nothing_is_left(
    on_ranks, tmp_path, ranks
):
    path = tmp_path / "checkpoints" / "step=1.ckpt"
    save = AtomicCheckpointIO().save_checkpoint if ranks == 1 else save_sharded
    path.parent.mkdir()
    for said in on_ranks(ranks, on_a_full_disk, save, path):
        assert said.startswith(f"cannot write the checkpoint {path}: ")
        assert re.search(r"; \d+\.\d GiB are free on that disk$", said)
    assert not list(path.parent.iterdir())


def first_layer_then_all(mesh, args, inputs):
    """Signals of the first layer alone, then a step of the whole model."""
    vlm = Placement(mesh).student(args)
    with torch.no_grad():
        first = vlm.signals(inputs, Wanted(layers=(0,))).qk[0].q
    vlm.signals(inputs, EVERYTHING).logits_NV.square().mean().backward()
    return first, {n: full_tensor(p.grad) for n, p in vlm.named_parameters() if p.grad is not None}


def test_a_sharded_model_that_first_ran_in_part_is_trained_as_a_whole(on_ranks, pair, inputs):
    args = ModelArgs(str(pair[0]))
    vlm = VLM.load(args)
    expected = vlm.signals(inputs, EVERYTHING)
    expected.logits_NV.square().mean().backward()
    for first, gradients in on_ranks(2, first_layer_then_all, args, inputs):
        torch.testing.assert_close(first, expected.qk[0].q.detach())
        for name, parameter in vlm.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(gradients[name], parameter.grad, msg=name)
