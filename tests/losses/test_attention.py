"""Attention rows of teacher and student, compared without a common basis inside a head."""

import pytest
import torch

from laid.losses.attention_rows import likeness, question_rows, row_logits
from laid.losses.head_mixing import HeadMixing, MixingArgs
from laid.losses.row_matching import row_divergence
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
    rows, turn = question_rows(inputs), eager.turn
    qk = eager.signals(inputs, Wanted(layers=(0, 1, 2))).qk
    seen = full_forward(eager, inputs, output_attentions=True).attentions
    for b in range(len(inputs.input_ids_BL)):
        last = int((inputs.mm_token_type_ids_BL[b] == 1).nonzero().max())
        end = int(inputs.attention_mask_BL[b].sum())
        assert rows.columns_BR[b][rows.valid_BR[b]].tolist() == list(range(last + 1, end))
    for layer, found in qk.items():
        ours_BHRL = row_logits(found, rows, turn).softmax(-1)
        for b, columns_R in enumerate(rows.columns_BR):
            valid_R = rows.valid_BR[b]
            theirs_HRL = seen[layer][b][:, columns_R[valid_R]]
            torch.testing.assert_close(ours_BHRL[b][:, valid_R], theirs_HRL, atol=1e-5, rtol=1e-4)


def test_padding_changes_nothing(student, haystacks):
    together, turn = haystacks().inputs, student.turn
    wanted = Wanted(layers=(1,))
    w_ST = torch.eye(4)

    def loss(inputs):
        rows = question_rows(inputs)
        qk = student.signals(inputs, wanted).qk[1]
        logits = row_logits(qk, rows, turn)
        return row_divergence(logits, logits.roll(1, dims=1), w_ST, rows)

    each = [loss(haystacks(rows=[row]).inputs) for row in range(6)]
    assert min(each) > 0
    torch.testing.assert_close(loss(together), torch.stack(each).mean())


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
    )
    return inputs, q_BLHD, k_BLKD


def turn(x_BLHD, positions_3BL):
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

    turned_k = times(k_BLKD, c_KF)
    turned_q = times(q_BLHD, (1 / c_KF.conj()).repeat_interleave(2, dim=0))
    rows = question_rows(inputs)
    before = row_logits(QK(q_BLHD, k_BLKD), rows, turn)
    torch.testing.assert_close(row_logits(QK(turned_q, turned_k), rows, turn), before)


def test_the_loss_is_nothing_for_the_mixture_itself_and_grows_from_there():
    inputs, q_BLHD, k_BLKD = random_batch()
    rows = question_rows(inputs)
    teacher = row_logits(QK(q_BLHD, k_BLKD), rows, turn)
    w_ST = torch.eye(4)[[2, 0]]
    same = teacher[:, [2, 0]]
    assert row_divergence(same, teacher, w_ST, rows) < 1e-6
    assert row_divergence(0.5 * same, teacher, w_ST, rows) > 1e-3
    # A logit is known up to a constant of its row.
    assert row_divergence(same + 3, teacher, w_ST, rows) < 1e-6


def test_it_is_the_divergence_of_what_falls_on_images():
    """By hand: over the keys of images p log(p/q) - p + q, and nothing of the text."""
    inputs, q_BLHD, k_BLKD = random_batch()
    rows = question_rows(inputs)
    teacher = row_logits(QK(q_BLHD, k_BLKD), rows, turn)
    student = teacher.roll(1, dims=1)
    w_ST = torch.full((4, 4), 0.25)
    total = 0.0
    for b, (first, last) in enumerate([(1, 8), (1, 4)]):
        p_HRN, q_HRN = teacher[b].softmax(-1).mean(0), student[b].softmax(-1)
        terms = []
        for r in range(int(rows.valid_BR[b].sum())):
            for h in range(4):
                p, q = p_HRN[r, first : last + 1], q_HRN[h, r, first : last + 1]
                seen = p > 0
                terms.append((p[seen] * (p[seen] / q[seen]).log() - p[seen] + q[seen]).sum())
        total += torch.stack(terms).mean() / 2
    torch.testing.assert_close(row_divergence(student, teacher, w_ST, rows), total)


def test_no_teacher_head_is_left_out():
    """Under even weights; else the cheapest mixture would be of heads that look nowhere."""
    mixing = HeadMixing(4, 6, 8, MixingArgs(), even=True)
    with torch.no_grad():
        mixing.raw.copy_(2 * torch.randn(4, 6, generator=torch.Generator().manual_seed(0)))
    w_ST = mixing.weights()
    assert (w_ST > 0).all()
    torch.testing.assert_close(w_ST.sum(1), torch.ones(4))
    torch.testing.assert_close(w_ST.sum(0), torch.full((6,), 4 / 6), atol=1e-2, rtol=0)
    w_ST.square().sum().backward()
    assert mixing.raw.grad.abs().sum() > 0


def test_likeness_finds_the_head_that_looks_at_the_same_images():
    inputs, q_BLHD, k_BLKD = random_batch()
    rows = question_rows(inputs)
    teacher = row_logits(QK(3 * q_BLHD, k_BLKD), rows, turn)
    product_ST, energy_H = likeness(teacher[:, [3, 1]], teacher, rows)
    alike_ST = product_ST / (energy_H[:2, None] * energy_H[2:]).sqrt()
    assert alike_ST.argmax(1).tolist() == [3, 1]
    torch.testing.assert_close(alike_ST.amax(1), torch.ones(2))
    # A head that looks at all images alike is like none.
    product_ST, energy_H = likeness(torch.zeros_like(teacher), teacher, rows)
    assert product_ST.abs().max() < 1e-6
    assert energy_H[:4].max() < 1e-6
