"""Several haystacks in one row, for every family that packs."""

from dataclasses import replace

import pytest
import torch

from laid.data.packing import check_packs
from laid.signals.model_signals import Wanted
from laid.vlm.model_loading import ModelArgs
from laid.vlm.vision_language_model import VLM

ALL = Wanted(layers=(0, 1), logits=True)


@pytest.fixture(params=["sdpa", "eager"])
def runs(models, request):
    """Student and teacher."""
    return [
        VLM.load(ModelArgs(str(folder), attn_implementation=request.param)) for folder in models
    ]


def test_haystacks_in_a_row_say_what_they_say_side_by_side(runs, batch):
    if not runs[0].family.packs:
        with pytest.raises(ValueError, match="is not run on several haystacks in one row"):
            check_packs(runs[0].family)
        return
    inputs = batch()
    mask_BL = inputs.attention_mask_BL.bool()
    packed = replace(inputs, lengths=mask_BL.sum(-1).tolist())
    assert len(set(packed.lengths)) > 2
    for vlm in runs:
        with torch.no_grad():
            expected, found = vlm.signals(inputs, ALL), vlm.signals(packed, ALL)
        close = {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(found.logits_NV, expected.logits_NV, **close)
        for layer, qk in expected.qk.items():
            for ours, theirs in ((found.qk[layer].q, qk.q), (found.qk[layer].k, qk.k)):
                torch.testing.assert_close(ours[mask_BL], theirs[mask_BL], **close)


def test_a_trained_tower_gets_the_gradients_of_haystacks_side_by_side(models, batch):
    vlm = VLM.load(ModelArgs(str(models[0]), freeze_vision=False))
    if not vlm.family.packs:
        return
    inputs = batch(rows=[0, 2])
    found = []
    for lengths in ([], inputs.attention_mask_BL.sum(-1).tolist()):
        vlm.zero_grad()
        signals = vlm.signals(replace(inputs, lengths=lengths), ALL)
        signals.logits_NV.square().mean().backward()
        towers = vlm.family.tower(vlm.hf).named_parameters()
        found.append({n: p.grad for n, p in towers if p.grad is not None})
    plain, packed = found
    assert plain.keys() == packed.keys()
    assert len(plain) > 5
    scale = max(gradient.abs().max() for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(packed[name] / scale, gradient / scale, rtol=1e-4, atol=1e-5)
