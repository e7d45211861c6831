"""The RoPE response gain: trained before RoPE, and folded into the weights of an export."""

import pytest
import torch
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration

from laid.checkpoints.module_state import without_frozen
from laid.signals.model_signals import Wanted
from laid.training.optimizer import OptimizerArgs, build_optimizer, build_schedule, set_rates
from laid.vlm.hf_folder import write_model
from laid.vlm.lora import LoraArgs, merged
from laid.vlm.model_loading import ModelArgs
from laid.vlm.rope_gain import RopeGainArgs, folded
from laid.vlm.vision_language_model import VLM
from laid.vlm.weight_files import is_gain

EVERYTHING = Wanted(layers=(0, 1), logits=True)
LOGS = [f"model.language_model.layers.{n}.self_attn.rope_gain.log_gain_HF" for n in (0, 1)]


def loaded(pair, gain=None, lora=None, **args):
    gain = RopeGainArgs() if gain is None else gain
    return VLM.load(ModelArgs(str(pair[0]), **args), lora, gain=gain)


def strong(vlm):
    """With gains, and adapters if there are any, that do something."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in vlm.gain_parameters():
            parameter.normal_()
        for parameter in vlm.adapters():
            parameter.normal_(std=0.1)
    return vlm


def plain(vlm, args, folder, gain=None, lora=None, dtype=None):
    """The model that an export writes, loaded by transformers alone."""
    state = vlm.hf.state_dict()
    if lora is not None:
        state = without_frozen(vlm.hf, state)
    logs = {name: state.pop(name) for name in list(state) if is_gain(name)}
    if lora is not None:
        state = merged(args, lora, state)
    write_model(folder, args, folded(args, gain or RopeGainArgs(), state, logs), dtype)
    return VLM(Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype="auto"))


def test_at_the_start_it_says_exactly_what_the_base_says(student, pair, haystacks):
    inputs = haystacks().inputs
    ours, base = (vlm.signals(inputs, EVERYTHING) for vlm in (loaded(pair), student))
    assert torch.equal(ours.logits_NV, base.logits_NV)
    for layer, found in base.qk.items():
        assert torch.equal(ours.qk[layer].q, found.q)
        assert torch.equal(ours.qk[layer].k, found.k)


def test_before_rope_it_is_what_it_would_be_after(pair, haystacks):
    vlm, positions = strong(loaded(pair)), haystacks().inputs.position_ids_3BL
    q_BLHD = torch.randn(*positions.shape[1:], 4, vlm.shape.head_dim)
    gain = vlm.hf.model.language_model.layers[1].self_attn.rope_gain
    before, after = vlm.rotate(gain(q_BLHD), positions), gain(vlm.rotate(q_BLHD, positions))
    torch.testing.assert_close(before, after)
    assert (before - vlm.rotate(q_BLHD, positions)).abs().mean() > 0.5


def test_captured_queries_of_the_chosen_layer_have_it_and_keys_have_not(student, pair, haystacks):
    inputs = haystacks().inputs
    vlm = strong(loaded(pair, RopeGainArgs([1])))
    ours, base = (of.signals(inputs, EVERYTHING).qk for of in (vlm, student))
    (gain_HF,) = vlm.gains().values()
    assert gain_HF.shape == (4, vlm.shape.head_dim // 2)
    assert (gain_HF > 0).all()
    torch.testing.assert_close(ours[1].q, base[1].q * torch.cat([gain_HF, gain_HF], -1))
    for found, expected in ((ours[0].q, base[0].q), (ours[0].k, base[0].k), (ours[1].k, base[1].k)):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("lora", [None, LoraArgs(rank=2)], ids=["", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "activation checkpointing"])
def test_every_gain_has_a_gradient(pair, haystacks, lora, checkpointing):
    inputs = haystacks().inputs
    vlm = loaded(pair, lora=lora, activation_checkpointing=checkpointing).train()
    signals = vlm.signals(inputs, EVERYTHING)
    (signals.qk[1].q.square().mean() + signals.logits_NV.square().mean()).backward()
    assert len(vlm.gain_parameters()) == 2
    assert all((p.grad != 0).all() for p in vlm.gain_parameters())
    if lora is not None:
        reached = {name for name, p in vlm.named_parameters() if p.grad is not None}
        assert all(".lora_" in name or is_gain(name) for name in reached)


@pytest.mark.parametrize("lora", [None, LoraArgs(rank=2)], ids=["", "lora"])
@pytest.mark.parametrize("layers", ["all", [1]], ids=str)
def test_an_export_is_a_plain_model_with_the_same_logits(
    student, pair, haystacks, tmp_path, lora, layers
):
    gain = RopeGainArgs(layers)
    vlm = strong(loaded(pair, gain, lora))
    exported = plain(vlm, ModelArgs(str(pair[0])), tmp_path, gain, lora)
    assert not [name for name in exported.hf.state_dict() if "gain" in name]
    inputs = haystacks().inputs
    # In float64, whose rounding is not the fold's.
    ours, theirs, base = (
        of.double().signals(inputs, EVERYTHING).logits_NV for of in (vlm, exported, student)
    )
    assert (ours - base).abs().max() > 1e-2
    assert (ours - theirs).abs().max() < 1e-6 * ours.abs().max()


def test_a_generated_answer_is_that_of_the_exported_model(student, pair, haystacks, tmp_path):
    vlm = strong(loaded(pair))
    exported = plain(vlm, ModelArgs(str(pair[0])), tmp_path)
    inputs = haystacks(with_answer=False, side="left").inputs
    ours, theirs, base = (of.answer(inputs, 8) for of in (vlm, exported, student))
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, base)


def test_of_weights_in_low_precision_the_gains_are_float32(pair, haystacks, tmp_path):
    vlm = strong(loaded(pair, dtype="bfloat16"))
    assert {p.dtype for p in vlm.gain_parameters()} == {torch.float32}
    inputs = haystacks().inputs
    signals = vlm.signals(inputs, EVERYTHING)
    signals.logits_NV.float().square().mean().backward()
    assert signals.qk[0].q.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 for p in vlm.gain_parameters())
    args = ModelArgs(str(pair[0]), dtype="bfloat16")
    exported = plain(vlm, args, tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in exported.parameters()} == {torch.bfloat16}


def test_gains_have_a_learning_rate_of_their_own_and_no_weight_decay(pair):
    vlm = loaded(pair, lora=LoraArgs(rank=2))
    args = OptimizerArgs(gain_lr=2e-3, warmup_ratio=0)
    optimizer = build_optimizer(vlm, nn.Module(), args, False)
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert set(groups) == {"lora", "rope_gain"}
    assert groups["rope_gain"]["params"] == vlm.gain_parameters()
    assert (groups["rope_gain"]["lr"], groups["rope_gain"]["weight_decay"]) == (2e-3, 0)
    set_rates(optimizer, build_schedule(optimizer, args, 9), OptimizerArgs(gain_lr=5e-3))
    assert groups["rope_gain"]["initial_lr"] == 5e-3
    assert groups["rope_gain"]["weight_decay"] == 0


def test_without_lora_it_is_trained_beside_all_weights_of_the_decoder(pair, student):
    groups = build_optimizer(loaded(pair), nn.Module(), OptimizerArgs(), False).param_groups
    counts = {group["name"]: len(group["params"]) for group in groups}
    of_base = build_optimizer(student, nn.Module(), OptimizerArgs(), False).param_groups
    assert counts == {**{group["name"]: len(group["params"]) for group in of_base}, "rope_gain": 2}


def test_a_checkpoint_holds_it(pair):
    assert [name for name in loaded(pair).hf.state_dict() if is_gain(name)] == LOGS
    with_lora = loaded(pair, lora=LoraArgs()).hf
    assert set(LOGS) <= without_frozen(with_lora, with_lora.state_dict()).keys()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], r"layers \[\]: expected all, or a list"),
        ("some", r"layers 'some': expected all, or a list"),
        ([[1]], "expected all, or a list"),
        ([0, 0], "given twice"),
        ([0, 2], r"layers \[2\]: the student has layers 0 to 1"),
        ([-1], r"layers \[-1\]: the student has layers 0 to 1"),
    ],
    ids=str,
)
def test_settings_that_can_not_be(pair, layers, message):
    with pytest.raises(ValueError, match=message):
        loaded(pair, RopeGainArgs(layers))


def test_gains_of_other_layers_or_of_another_shape_are_not_folded(pair):
    args, vlm = ModelArgs(str(pair[0])), loaded(pair)
    state = vlm.hf.state_dict()
    logs = {name: state.pop(name) for name in LOGS}
    with pytest.raises(ValueError, match=r"gains that .* has not"):
        folded(args, RopeGainArgs([0]), state, logs)
    with pytest.raises(ValueError, match="found none"):
        folded(args, RopeGainArgs(), state, {LOGS[0]: logs[LOGS[0]]})
    with pytest.raises(ValueError, match=r"found \[2, 3\]"):
        folded(args, RopeGainArgs(), state, {**logs, LOGS[1]: torch.zeros(2, 3)})
