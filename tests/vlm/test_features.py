"""Features of a frozen vision tower: computed once, and the same as from pixels.

Equal to rounding: a matrix product of one image and of several may be added up in another order.
"""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from laid.signals.model_signals import Wanted
from laid.vlm.image_features import features_of_batch
from laid.vlm.model_loading import ModelArgs
from laid.vlm.vision_language_model import VLM

WANTED = Wanted(layers=(0, 1), logits=True)


def taught(vlm, inputs, limit=1.0):
    """Shows the model the batch's images one by one, and gives the batch without pixels."""
    pieces = inputs.pixel_values_PC.split(inputs.image_grid_thw_I3.prod(-1).tolist())
    for at, name in enumerate(inputs.image_names):
        vlm.learn([name], pieces[at], inputs.image_grid_thw_I3[at : at + 1], limit)
    return replace(inputs, pixel_values_PC=torch.empty(0))


def test_signals_and_answers_are_those_of_the_pixels(student, haystacks):
    inputs = haystacks().inputs
    from_pixels = student.signals(inputs, WANTED)
    from_features = student.signals(taught(student, inputs), WANTED)
    assert_close(from_features.logits_NV, from_pixels.logits_NV)
    for layer, found in from_features.qk.items():
        assert_close(found.q, from_pixels.qk[layer].q)
    prompts = haystacks(with_answer=False, side="left").inputs
    blind = replace(prompts, pixel_values_PC=torch.empty(0))
    assert torch.equal(student.answer(blind, 4), student.answer(prompts, 4))


def test_they_are_those_of_the_stock_forward(student, haystacks):
    inputs = haystacks().inputs
    with torch.no_grad():
        stock = student.hf(
            input_ids=inputs.input_ids_BL,
            attention_mask=inputs.attention_mask_BL,
            position_ids=inputs.position_ids_3BL,
            pixel_values=inputs.pixel_values_PC,
            image_grid_thw=inputs.image_grid_thw_I3,
        ).logits
        ours = student.hf(**student._arguments(taught(student, inputs))).logits
    assert_close(ours, stock)


def test_an_image_that_recurs_is_computed_once(student, haystacks):
    inputs = haystacks(rows=[0, 0, 1]).inputs
    assert inputs.image_names[0] == inputs.image_names[1]
    features = features_of_batch(student.hf, student.features, inputs)
    assert features[0] is features[1]
    assert features[0] is not features[2]


def test_memory_is_bounded(student, haystacks):
    with pytest.raises(ValueError, match=r"more than data\.feature_gib 1e-06 GiB"):
        taught(student, haystacks().inputs, limit=1e-6)


def test_a_vision_tower_that_is_trained_gets_pixels_and_gradients(pair, haystacks):
    vlm = VLM.load(ModelArgs(str(pair[0]), freeze_vision=False))
    assert not vlm.vision_frozen
    vlm.signals(haystacks().inputs, WANTED).logits_NV.sum().backward()
    assert vlm.hf.model.visual.patch_embed.proj.weight.grad.abs().sum() > 0
