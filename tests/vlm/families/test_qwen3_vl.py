"""Qwen3-VL: stated head_dim, norms, DeepStack, interleaved M-RoPE; experts in a teacher."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_families import CASES, narrow_qwen3_vl, tiny_qwen3_vl_moe
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3VLConfig

from laid.miniature.tiny_models import tiny_config, tiny_model
from laid.planning.memory_tracker import MemoryTracker
from laid.planning.planned_inputs import haystack_inputs
from laid.signals.model_signals import Wanted
from laid.vlm.families.qwen3_vl import Qwen3VL, Qwen3VLMoe
from laid.vlm.families.registry import family_of
from laid.vlm.families.vision_features import VisionFeatures
from laid.vlm.model_loading import ModelArgs, empty_model, load_model, materialise
from laid.vlm.online_teacher import OnlineTeacher
from laid.vlm.pair_check import check_pair
from laid.vlm.planned_calls import experts_at_once
from laid.vlm.rope_gain import RopeGainArgs, add_gains
from laid.vlm.vision_language_model import VLM
from laid.vlm.weight_files import all_rows
from laid.vlm.window_extension import YarnArgs, set_rotation

SHAPE = {"layers": 3, "heads": 4, "kv_heads": 2}


@pytest.fixture(scope="module")
def tokenizer():
    return CASES[Qwen3VL].processor().tokenizer


@pytest.fixture
def qwen3(tokenizer):
    torch.manual_seed(0)
    return VLM(tiny_model(narrow_qwen3_vl(tokenizer, **SHAPE)).eval()).requires_grad_(False)


@pytest.fixture
def inputs(qwen3):
    """Two images in a haystack of the model's own tokens."""
    made = haystack_inputs(qwen3.hf.config, 2, (1, 4, 6), 1, with_answer=True)
    made.pixel_values_PC.normal_(generator=torch.Generator().manual_seed(1))
    return made


def test_features_of_several_layers_are_kept_and_given_back(qwen3, inputs):
    stock = qwen3.hf(**qwen3.family.arguments(inputs), pixel_values=inputs.pixel_values_PC).logits
    qwen3.learn(inputs.image_names, inputs.pixel_values_PC, inputs.image_grid_thw_I3, 1.0)
    kept = qwen3.features.of(inputs.image_names)
    assert [len(one.more_VE) for one in kept] == [2, 2]
    assert all(one.bytes == 3 * 6 * 96 * 4 for one in kept)
    blind = replace(inputs, pixel_values_PC=torch.empty(0))
    torch.testing.assert_close(qwen3.hf(**qwen3._arguments(blind)).logits, stock)
    without = [VisionFeatures(x.tokens_VE, tuple(0 * y for y in x.more_VE)) for x in kept]
    arguments = qwen3._arguments(blind)
    arguments["mm_encoder_outputs"] = {"image": qwen3.family.encoder_output(without)}
    assert (qwen3.hf(**arguments).logits - stock).abs().max() > 1e-3


def test_a_gain_of_each_head_is_refused_behind_a_norm_that_all_heads_share(qwen3):
    with pytest.raises(ValueError, match=r"Qwen3-VL has a norm of queries.*leave model\.rope_gain"):
        add_gains(qwen3.hf, RopeGainArgs())


@pytest.mark.parametrize(("hidden", "heads"), [(2560, 32), (5120, 64)])
def test_head_dim_is_the_one_that_a_configuration_states(hidden, heads):
    """Of 4B and 32B it is 128; hidden size / heads would be 80."""
    text = {"hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": 8}
    config = Qwen3VLConfig(text_config={**text, "head_dim": 128})
    assert Qwen3VL(config).shape.head_dim == 128


def test_yarn_leaves_pairs_of_time_height_and_width_in_turn(tokenizer):
    config = narrow_qwen3_vl(tokenizer, **SHAPE)
    before = dict(config.text_config.rope_parameters)
    set_rotation(config, YarnArgs(4.0, 64))
    after = config.text_config.rope_parameters
    assert after["rope_type"] == "yarn"
    assert all(after[key] == before[key] for key in Qwen3VL.rope_keys)


def test_student_and_teacher_of_two_families_are_refused(qwen3, tokenizer):
    config = tiny_config(tokenizer, layers=1, heads=4, kv_heads=2)
    with pytest.raises(
        ValueError, match=r"family: student Qwen2\.5-VL, teacher Qwen3-VL"
    ) as refusal:
        check_pair(config, qwen3.hf.config, {"a": 1}, {"a": 1}, ["laid"])
    assert "mrope_interleaved: student None, teacher True" in str(refusal.value)


def test_every_difference_of_a_pair_is_in_one_message(tokenizer):
    ours, theirs = narrow_qwen3_vl(tokenizer, **SHAPE), narrow_qwen3_vl(tokenizer, **SHAPE)
    set_rotation(theirs, YarnArgs(4.0, 64))
    theirs.text_config.head_dim = 64
    theirs.text_config.rope_parameters |= {"rope_theta": 1e6, "mrope_section": [8, 4, 4]}
    check_pair(ours, theirs, {"a": 1}, {"a": 1}, [])  # for terms that compare no vectors
    theirs.image_token_id += 1
    theirs.vision_config.patch_size = 14
    with pytest.raises(ValueError, match="student and teacher do not fit together") as refusal:
        check_pair(ours, theirs, {"a": 1}, {"a": 2}, ["laid"])
    for said in (
        "head_dim: student 32, teacher 64",
        "rope_type: student default, teacher yarn",
        "rope_theta: student 5000000.0, teacher 1000000.0",
        "mrope_section: student [6, 5, 5], teacher [8, 4, 4]",
        "factor: student None, teacher 4.0",
        "image_token_id: student",
        "vision patch_size: student 16, teacher 14",
        "tokenizer: 1 tokens have other ids",
    ):
        assert said in str(refusal.value)


@torch.no_grad()
def test_a_mixture_of_experts_teaches_a_dense_student(qwen3, inputs, tokenizer):
    config = tiny_qwen3_vl_moe(tokenizer, **{**SHAPE, "heads": 6})
    check_pair(qwen3.hf.config, config, {"a": 1}, {"a": 1}, ["laid"])
    torch.manual_seed(1)
    teacher = OnlineTeacher(VLM(tiny_model(config)))
    signals = teacher.signals(inputs, Wanted(layers=(2,), logits=True))
    assert signals.qk[2].q.shape[2:] == (6, 32)
    ours = qwen3.rotate(signals.qk[2].q, inputs.position_ids_3BL)
    torch.testing.assert_close(teacher.rotate(signals.qk[2].q, inputs.position_ids_3BL), ours)


@torch.no_grad()
def test_a_plan_counts_the_experts_that_a_token_goes_to(tokenizer):
    """FLOPs by hand, and as PyTorch counts transformers' loop over experts; the memory of its
    grouped product."""
    hf = tiny_model(tiny_qwen3_vl_moe(tokenizer, **SHAPE))
    x_BLE = torch.randn(2, 50, 96)

    def run(mode):
        with mode:
            assert hf.model.language_model.layers[0].mlp(x_BLE).shape == x_BLE.shape
        return mode

    def flops():
        return run(FlopCounterMode(display=False)).get_total_flops()

    def peak():
        return run(MemoryTracker()).peaks()["start"].total()

    grouped = peak()
    hf.set_experts_implementation("eager")
    router, experts = 96 * 4, 2 * 3 * 96 * 40  # 4 experts, 2 a token, each of three matrices
    assert flops() == 100 * 2 * (router + experts)
    experts_at_once(hf)
    assert flops() == 100 * 2 * (router + experts)
    assert peak() == pytest.approx(grouped, rel=0.02)


@torch.no_grad()
def test_experts_may_be_stored_in_the_hubs_order(tokenizer, tmp_path):
    """With input before output; transformers exchanges them by their shape."""
    torch.manual_seed(2)
    model = tiny_model(tiny_qwen3_vl_moe(tokenizer, **SHAPE))
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    names = [name for name in stored if Qwen3VLMoe.may_be_exchanged(name)]
    assert len(names) == 2 * 3
    expected = dict(model.named_parameters())
    for name in names:
        stored[name] = expected[name].mT.contiguous()
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    args = ModelArgs(str(tmp_path))
    ours = empty_model(args)
    materialise(ours, args, "cpu", all_rows)
    for read in (ours, load_model(args)):
        for name, parameter in read.named_parameters():
            assert torch.equal(parameter, expected[name]), name


def test_head_dim_is_hidden_size_by_heads_where_none_is_stated(encoder):
    config = tiny_config(encoder.processor.tokenizer, layers=1, heads=4, kv_heads=2, head_dim=16)
    assert family_of(config).shape.head_dim == 16
    config.text_config.head_dim = 64
    assert family_of(config).shape.head_dim == family_of(config).head_facts()["head_dim"] == 64
