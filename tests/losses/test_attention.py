"""Attention rows of the question: those of the model, whatever the basis of its heads."""

import pytest
import torch

from laid.losses.attention_rows import likeness, question_rows, row_logits
from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import QK, Wanted
from laid.vlm.model_loading import ModelArgs
from laid.vlm.vision_language_model import VLM


@pytest.fixture(scope="module")
def eager():
    """A model whose attention can be looked at."""
    return VLM.load(ModelArgs(path="tiny/student", attn_implementation="eager"))


def test_rows_are_the_attention_of_the_model(eager, haystacks, full_forward):
    """Of every layer, head and token after the last image, and no other."""
    inputs = haystacks().inputs
    rows, rotate = question_rows(inputs), eager.rotate
    qk = eager.signals(inputs, Wanted(layers=(0, 1, 2))).qk
    seen = full_forward(eager, inputs, output_attentions=True).attentions
    for b in range(len(inputs.input_ids_BL)):
        last = int((inputs.mm_token_type_ids_BL[b] == 1).nonzero().max())
        end = int(inputs.attention_mask_BL[b].sum())
        assert rows.columns_BR[b][rows.valid_BR[b]].tolist() == list(range(last + 1, end))
    for layer, found in qk.items():
        ours_BHRL = row_logits(found, rows, rotate).softmax(-1)
        for b, columns_R in enumerate(rows.columns_BR):
            valid_R = rows.valid_BR[b]
            theirs_HRL = seen[layer][b][:, columns_R[valid_R]]
            torch.testing.assert_close(ours_BHRL[b][:, valid_R], theirs_HRL, atol=1e-5, rtol=1e-4)


def random_batch(seed=0):
    """Two haystacks of two and one image of four visual tokens, in one-dimensional positions."""
    visual_BL = torch.tensor([[0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0]])
    mask_BL = torch.tensor([[1] * 11, [1] * 7 + [0] * 4])
    positions_3BL = torch.arange(11).expand(3, 2, 11)
    generator = torch.Generator().manual_seed(seed)
    q_BLHD = torch.randn(2, 11, 4, 8, generator=generator)
    k_BLKD = torch.randn(2, 11, 2, 8, generator=generator)
    nothing = torch.empty(0)
    inputs = ModelInputs(
        input_ids_BL=torch.zeros_like(mask_BL),
        attention_mask_BL=mask_BL,
        mm_token_type_ids_BL=visual_BL,
        position_ids_3BL=positions_3BL,
        labels_BL=torch.full_like(mask_BL, -100),
        pixel_values_PC=nothing,
        image_grid_thw_I3=nothing,
        image_names=[],
        needle_I=nothing.bool(),
    )
    return inputs, q_BLHD, k_BLKD


def rotate(x_BLHD, positions_3BL):
    """RoPE of four pairs, of which time turns two, height one and width one."""
    places_BLF = positions_3BL[torch.tensor([0, 0, 1, 2])].movedim(0, -1)
    angle_BL1F = (places_BLF * 10.0 ** -torch.arange(4.0)).unsqueeze(2)
    pairs = torch.complex(*x_BLHD.chunk(2, dim=-1)) * torch.polar(torch.ones(()), angle_BL1F)
    return torch.cat([pairs.real, pairs.imag], dim=-1)


def test_it_does_not_see_the_basis_of_a_head():
    """Turning and stretching each pair of a key head, and its queries the other way, is nothing
    to the loss; to Eq. 3 it is everything."""
    inputs, q_BLHD, k_BLKD = random_batch()
    generator = torch.Generator().manual_seed(1)
    c_KF = torch.randn(2, 4, dtype=torch.complex64, generator=generator)

    def times(x, c):
        pairs = torch.complex(*x.chunk(2, dim=-1)) * c
        return torch.cat([pairs.real, pairs.imag], dim=-1)

    rotated_k = times(k_BLKD, c_KF)
    rotated_q = times(q_BLHD, (1 / c_KF.conj()).repeat_interleave(2, dim=0))
    rows = question_rows(inputs)
    before = row_logits(QK(q_BLHD, k_BLKD), rows, rotate)
    torch.testing.assert_close(row_logits(QK(rotated_q, rotated_k), rows, rotate), before)


def test_likeness_finds_the_head_that_looks_at_the_same_images():
    inputs, q_BLHD, k_BLKD = random_batch()
    rows = question_rows(inputs)
    teacher = row_logits(QK(3 * q_BLHD, k_BLKD), rows, rotate)
    product_ST, energy_H = likeness(teacher[:, [3, 1]], teacher, rows)
    alike_ST = product_ST / (energy_H[:2, None] * energy_H[2:]).sqrt()
    assert alike_ST.argmax(1).tolist() == [3, 1]
    torch.testing.assert_close(alike_ST.amax(1), torch.ones(2))
    # A head that looks at all images alike is like none.
    product_ST, energy_H = likeness(torch.zeros_like(teacher), teacher, rows)
    assert product_ST.abs().max() < 1e-6
    assert energy_H[:4].max() < 1e-6
