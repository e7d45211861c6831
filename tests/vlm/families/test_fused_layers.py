"""Layers computed by other kernels: each norm and MLP of the decoder, and nothing else."""

from copy import deepcopy

import pytest
import torch
from torch.nn.functional import silu

from laid.common.errors import UserError
from laid.signals.model_signals import Wanted
from laid.vlm.fused_layers import fuse_layers
from laid.vlm.lora import LoraArgs
from laid.vlm.model_loading import ModelArgs
from laid.vlm.vision_language_model import VLM

CALLS = []


def norm(x_E, weight_E, epsilon):
    """What Liger's RMSNorm computes, which runs on a GPU alone."""
    CALLS.append("norm")
    return weight_E * (x_E * (x_E.square().mean(-1, keepdim=True) + epsilon).rsqrt())


def gate(gate_I, up_I):
    CALLS.append("mlp")
    return silu(gate_I) * up_I


def step(vlm, inputs):
    """Signals, and gradients of a loss of all."""
    signals = vlm.train().signals(inputs, Wanted(layers=(0, 1), logits=True))
    parts = [signals.logits_NV, *(x for qk in signals.qk.values() for x in (qk.q, qk.k))]
    sum(part.square().mean() for part in parts).backward()
    return parts, {name: p.grad for name, p in vlm.named_parameters() if p.grad is not None}


def test_fused_layers_have_the_models_signals_and_gradients(family, models, batch):
    plain = VLM.load(ModelArgs(str(models[0])), LoraArgs())
    fused = deepcopy(plain)
    if family.model_type == "gemma3":
        with pytest.raises(UserError, match="layers of gemma3 have other norms"):
            fuse_layers(fused.hf, fused.family, norm, gate)
        return
    fuse_layers(fused.hf, fused.family, norm, gate)
    assert fused.state_dict().keys() == plain.state_dict().keys()
    CALLS.clear()
    inputs = batch(rows=[0, 3])
    (found, gradients), (ours, expected) = step(fused, inputs), step(plain, inputs)
    layers = len(fused.family.layers(fused.hf))
    assert CALLS.count("norm") >= 2 * layers
    assert CALLS.count("mlp") == (0 if "moe" in family.model_type else layers)
    torch.testing.assert_close(found, ours, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == expected.keys() != set()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)
