"""LoRA: adapters are trained in place of the decoder's weights."""

import json
import shutil

import pytest
import torch
from torch import nn
from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

from laid.checkpoints.module_state import without_frozen
from laid.signals.model_signals import Wanted
from laid.training.optimizer import OptimizerArgs, build_optimizer
from laid.vlm.hf_folder import write_model
from laid.vlm.lora import LoraArgs, adapters, add_lora, base_of, check_base, merged
from laid.vlm.model_loading import ModelArgs
from laid.vlm.vision_language_model import VLM

EVERYTHING = Wanted(layers=(0, 1), logits=True)
DECODER = "hf.model.language_model."


@pytest.fixture
def adapted(pair):
    """The student with adapters as they are at the start of training."""
    return VLM.load(ModelArgs(str(pair[0])), LoraArgs())


@pytest.fixture
def trained(adapted):
    """The student with adapters that do something."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in adapted.adapters():
            parameter.normal_(std=0.1)
    return adapted


def held(vlm):
    """What a checkpoint holds of the student, by transformers' names."""
    return without_frozen(vlm.hf, vlm.hf.state_dict())


def test_at_the_start_it_says_exactly_what_the_base_says(student, adapted, haystacks):
    inputs = haystacks().inputs
    ours, base = adapted.signals(inputs, EVERYTHING), student.signals(inputs, EVERYTHING)
    assert torch.equal(ours.logits_NV, base.logits_NV)
    for layer, found in base.qk.items():
        assert torch.equal(ours.qk[layer].q, found.q)
        assert torch.equal(ours.qk[layer].k, found.k)


def test_captured_queries_and_keys_have_the_adapters_part(trained, haystacks):
    inputs = haystacks().inputs
    found = trained.signals(inputs, EVERYTHING).qk
    with torch.no_grad():
        states = trained.hf(**trained._arguments(inputs), output_hidden_states=True).hidden_states
    for index, layer in enumerate(trained.hf.model.language_model.layers):
        x = layer.input_layernorm(states[index])
        for got, linear in ((found[index].q, layer.self_attn.q_proj),
                            (found[index].k, layer.self_attn.k_proj)):  # fmt: skip
            down, up = linear.lora_A["default"].weight, linear.lora_B["default"].weight
            plain = torch.nn.functional.linear(x, linear.weight, linear.bias)
            update = 16 / 8 * (x @ down.T @ up.T)
            assert update.abs().mean() > 0.01
            torch.testing.assert_close(got.flatten(2), plain + update)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "activation checkpointing"])
def test_gradients_reach_the_adapters_and_nothing_else(pair, haystacks, checkpointing):
    args = ModelArgs(str(pair[0]), activation_checkpointing=checkpointing)
    vlm = VLM.load(args, LoraArgs()).train()
    signals = vlm.signals(haystacks().inputs, EVERYTHING)
    aligned = sum(qk.q.square().mean() + qk.k.square().mean() for qk in signals.qk.values())
    (aligned + signals.logits_NV.square().mean()).backward()
    reached = {name for name, p in vlm.named_parameters() if p.grad is not None}
    assert reached == {name for name, _ in vlm.named_parameters() if ".lora_" in name}
    # B begins at 0, so that A has a gradient of 0 in the first step; B's is not.
    ups = [p.grad for name, p in vlm.named_parameters() if ".lora_B." in name]
    assert len(ups) == 2 * 4
    assert all(grad.abs().sum() > 0 for grad in ups)


def test_adapters_are_in_the_decoder_alone_though_the_tower_has_layers_of_the_same_name(pair):
    mlp = LoraArgs(rank=2, target_modules=["gate_proj", "down_proj"])
    vlm = VLM.load(ModelArgs(str(pair[0])), mlp)
    assert any("gate_proj" in name for name, _ in vlm.hf.model.visual.named_modules())
    names = [name for name, p in vlm.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 2 * 2
    assert all(name.startswith(DECODER) for name in names)


def test_a_vision_tower_that_is_trained_is_trained_beside_the_adapters(pair):
    vlm = VLM.load(ModelArgs(str(pair[0]), freeze_vision=False), LoraArgs())
    trained = [name for name, p in vlm.named_parameters() if p.requires_grad]
    tower = [name for name in trained if name.startswith("hf.model.visual.")]
    assert len(tower) == len(list(vlm.hf.model.visual.parameters()))
    assert len(trained) - len(tower) == len(vlm.adapters()) == 2 * 4 * 2
    args = OptimizerArgs(student_lr=1e-5, lora_lr=1e-3)
    groups = {g["name"]: g for g in build_optimizer(vlm, nn.Module(), args, False).param_groups}
    assert set(groups) == {"student", "student_no_decay", "lora"}
    assert groups["lora"]["lr"] == 1e-3
    assert {id(p) for p in groups["lora"]["params"]} == {id(p) for p in vlm.adapters()}
    assert sum(len(g["params"]) for g in groups.values()) == len(trained)


def test_a_frozen_base_in_low_precision_has_adapters_in_float32(pair, haystacks):
    vlm = VLM.load(ModelArgs(str(pair[0]), dtype="bfloat16"), LoraArgs())
    assert {p.dtype for p in vlm.adapters()} == {torch.float32}
    signals = vlm.signals(haystacks().inputs, EVERYTHING)
    signals.logits_NV.float().square().mean().backward()
    assert signals.qk[0].q.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 for p in vlm.adapters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank 0"),
        ({"alpha": 0}, "alpha 0"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"target_modules": []}, "target_modules is empty"),
        ({"target_modules": ["q_proj", "qkv"]}, r"\['qkv'\].*it has down_proj, gate_proj, k_proj"),
        ({"target_modules": ["embed_tokens"]}, "no such linear layer"),
    ],
    ids=str,
)
def test_settings_that_can_not_be(pair, settings, message):
    with pytest.raises(ValueError, match=message):
        VLM.load(ModelArgs(str(pair[0])), LoraArgs(**settings))


def test_a_checkpoint_holds_the_adapters_alone(trained):
    assert set(held(trained)) == {
        f"model.language_model.layers.{layer}.self_attn.{name}_proj.lora_{side}.default.weight"
        for layer in (0, 1)
        for name in "qkvo"
        for side in "AB"
    }


def test_weights_of_two_names_are_left_out_under_both(tmp_path, pair):
    """Of the 3B model, the output matrix is the embedding."""
    shutil.copytree(pair[0], tmp_path, dirs_exist_ok=True)
    content = json.loads((tmp_path / "config.json").read_text())
    content["tie_word_embeddings"] = content["text_config"]["tie_word_embeddings"] = True
    (tmp_path / "config.json").write_text(json.dumps(content))
    vlm = VLM.load(ModelArgs(str(tmp_path), random_weights=True), LoraArgs())
    assert vlm.hf.lm_head.weight is vlm.hf.model.language_model.embed_tokens.weight
    assert all(".lora_" in name for name in held(vlm))


def test_merged_weights_are_a_plain_model_with_the_same_logits(trained, pair, haystacks, tmp_path):
    args = ModelArgs(str(pair[0]))
    write_model(tmp_path, args, merged(args, LoraArgs(), held(trained)), None)
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
    again = VLM(plain)
    assert not adapters(again)
    inputs = haystacks().inputs
    ours, theirs = trained.signals(inputs, EVERYTHING), again.signals(inputs, EVERYTHING)
    base = VLM.load(args).signals(inputs, EVERYTHING).logits_NV
    assert (ours.logits_NV - base).abs().max() > 0.1
    assert (ours.logits_NV - theirs.logits_NV).abs().max() < 1e-5 * ours.logits_NV.abs().max()


def test_adapters_of_another_kind_are_not_merged(trained, pair):
    args = ModelArgs(str(pair[0]))
    with pytest.raises(ValueError, match="are not those of"):
        merged(args, LoraArgs(target_modules=["q_proj"]), held(trained))
    with pytest.raises(ValueError, match="do not fit"):
        merged(args, LoraArgs(rank=4), held(trained))


def test_adapters_belong_to_the_weights_they_were_trained_on(tmp_path, pair):
    shutil.copytree(pair[0], tmp_path / "student")
    args = ModelArgs(str(tmp_path / "student"))
    then = base_of(args)
    check_base(base_of(args), then)
    check_base(base_of(ModelArgs(str(pair[1]))), then)  # another path: somebody typed it
    check_base(base_of(args), None)
    shutil.copy(pair[1] / "model.safetensors", tmp_path / "student")
    with pytest.raises(ValueError, match="have changed since the checkpoint's adapters"):
        check_base(base_of(args), then)


@pytest.mark.parametrize(("size", "count"), [("7b", 5_046_272), ("3b", 3_686_400)])
def test_how_many_numbers_are_trained_at_full_size(qwen, size, count):
    """docs/methods.md gives sizes of checkpoints from these."""
    with torch.device("meta"):
        hf = Qwen2_5_VLForConditionalGeneration._from_config(
            AutoConfig.from_pretrained(qwen / size), dtype=torch.float32
        )
        hf.model.visual.requires_grad_(False)
        add_lora(hf, LoraArgs())
    assert sum(p.numel() for p in hf.parameters() if p.requires_grad) == count
    assert sum(p.numel() for p in adapters(hf)) == count
