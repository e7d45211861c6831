"""Where a model looks: its own attention, summed over the tokens of each image."""

import pytest
import torch

from laid.look import attention_shares as module
from laid.look.attention_shares import attention_shares, head_shares
from laid.losses.attention_rows import question_rows
from laid.losses.image_tokens import images_of
from laid.signals.model_signals import Wanted


@pytest.fixture
def prompt(haystacks):
    return haystacks(rows=[3], with_answer=False).inputs


def test_shares_are_the_models_own_attention_on_each_images_tokens(student, prompt):
    images, rows = images_of(prompt), question_rows(prompt)
    image_LI = torch.zeros(prompt.input_ids_BL.shape[1], images.images)
    image_LI[images.column_N, images.image_N] = 1.0
    student.hf.set_attn_implementation("eager")
    arguments = {**student.family.arguments(prompt), "pixel_values": prompt.pixel_values_PC}
    own = student.hf(**arguments, output_attentions=True).attentions
    found = attention_shares(student, prompt, heads=3)
    qk = student.signals(prompt, Wanted(layers=tuple(range(student.shape.layers)))).qk
    for layer, p_1HLL in enumerate(own):
        expected_HRI = p_1HLL[0][:, rows.columns_BR[0]] @ image_LI
        share_HRI = head_shares(qk[layer], rows, student.rotate, image_LI)
        torch.testing.assert_close(share_HRI, expected_HRI, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.layer_NI[layer], share_HRI.mean((0, 1)))
    assert ((found.layer_NI > 0).all() and found.layer_NI.sum(1).max() <= 1).item()


def test_the_sharpest_heads_come_first_and_all_heads_are_their_limit(student, prompt):
    one, more, all_of_them = (attention_shares(student, prompt, n) for n in (1, 3, 10_000))
    assert more.sharp_heads[:1] == one.sharp_heads
    assert len(more.sharp_heads) == 3
    shape = student.shape
    assert len(set(all_of_them.sharp_heads)) == shape.layers * shape.heads
    assert one.sharp_I.max() - one.sharp_I.mean() >= more.sharp_I.max() - more.sharp_I.mean() - 1e-6


def test_how_many_layers_are_in_memory_changes_nothing(student, prompt, monkeypatch):
    together = attention_shares(student, prompt, 4)
    monkeypatch.setattr(module, "LAYERS_AT_ONCE", 1)
    apart = attention_shares(student, prompt, 4)
    torch.testing.assert_close(together.layer_NI, apart.layer_NI)
    torch.testing.assert_close(together.sharp_I, apart.sharp_I)
    assert together.sharp_heads == apart.sharp_heads


def test_a_haystack_of_one_image_has_sharpest_heads_too(student, haystacks):
    found = attention_shares(student, haystacks(rows=[0], with_answer=False).inputs, 2)
    assert found.sharp_I.shape == (1,)
    assert found.sharp_I > 0
