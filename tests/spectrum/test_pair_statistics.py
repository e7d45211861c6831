"""Statistics by rotary pair: what they add up to, and what changes them."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from laid.signals.model_inputs import IGNORED
from laid.signals.model_signals import QK, Wanted
from laid.spectrum.pair_statistics import asked_rows, pair_statistics


@pytest.fixture
def inputs(haystacks):
    return haystacks(rows=[3]).inputs


def random_qk(length, heads=4, kv_heads=2, head_dim=8):
    generator = torch.Generator().manual_seed(0)
    q_BLHD = torch.randn(1, length, heads, head_dim, generator=generator)
    return QK(q_BLHD, torch.randn(1, length, kv_heads, head_dim, generator=generator))


def rotate(x_BLHD, positions_3BL):
    """RoPE of four pairs, of which time turns two, height one and width one."""
    position_BLF = positions_3BL[[0, 0, 1, 2]].permute(1, 2, 0).float()
    angle_BLF = position_BLF * torch.tensor([1.0, 0.3, 0.1, 0.01])
    x = torch.complex(*x_BLHD.chunk(2, dim=-1)) * torch.polar(torch.ones(()), angle_BLF[:, :, None])
    return torch.cat([x.real, x.imag], dim=-1)


def of_pairs(factor_F, x_BLHD):
    """Each pair times a complex number."""
    x = torch.complex(*x_BLHD.chunk(2, dim=-1)) * factor_F
    return torch.cat([x.real, x.imag], dim=-1)


def test_rows_are_those_of_the_question(inputs):
    """From the end of the last image to the last token before the answer."""
    columns_R = asked_rows(inputs).columns_BR[0]
    last = int((inputs.mm_token_type_ids_BL[0] == 1).nonzero().max())
    answer = int((inputs.labels_BL[0] != IGNORED).nonzero().min())
    assert columns_R.tolist() == list(range(last + 1, answer))


def test_usage_and_query_sum_to_one_in_every_layer_and_head(student, inputs):
    found = student.signals(inputs, Wanted(layers=(0, 1))).qk
    for layer, qk in found.items():
        rotate = partial(student.family.rotate, student.hf, layer=layer)
        made = pair_statistics(qk, asked_rows(inputs), rotate)
        for x_HF in (made.usage_HF, made.query_HF):
            assert x_HF.shape == (student.shape.heads, student.shape.head_dim // 2)
            torch.testing.assert_close(x_HF.sum(-1), torch.ones(len(x_HF)).double())


def test_where_one_pair_is_not_zero_all_usage_and_all_logits_are_its(inputs):
    qk = random_qk(inputs.input_ids_BL.shape[1])
    only = torch.tensor([0.0, 0.0, 1.0, 0.0])
    made = pair_statistics(
        QK(of_pairs(only, qk.q), of_pairs(only, qk.k)), asked_rows(inputs), rotate
    )
    assert torch.equal(made.usage_HF, only.double().expand(4, 4))
    for x_HF in (made.mean_HF, made.variance_HF):
        assert (x_HF[:, 2].abs() > 1e-3).all()
        assert not x_HF[:, [0, 1, 3]].any()


def test_of_equal_keys_at_equal_positions_a_logit_has_a_mean_and_no_variance(inputs):
    """q = (2, 0) and k = (3, 0) in every pair: c = 6 / sqrt(8)."""
    length = inputs.input_ids_BL.shape[1]
    still = replace(inputs, position_ids_3BL=torch.zeros_like(inputs.position_ids_3BL))
    one = torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0])
    qk = QK((2 * one).expand(1, length, 4, 8), (3 * one).expand(1, length, 2, 8))
    made = pair_statistics(qk, asked_rows(still), rotate)
    torch.testing.assert_close(made.mean_HF, torch.full((4, 4), 6 / math.sqrt(8)).double())
    torch.testing.assert_close(made.variance_HF, torch.zeros(4, 4).double())
    torch.testing.assert_close(made.usage_HF, torch.full((4, 4), 0.25).double())


def test_another_basis_of_a_pair_changes_nothing(inputs):
    """A rotation of queries and keys inside a pair commutes with RoPE."""
    rows, qk = asked_rows(inputs), random_qk(inputs.input_ids_BL.shape[1])
    basis = torch.polar(torch.ones(4), torch.tensor([0.3, -1.2, 2.0, 0.7]))
    plain = pair_statistics(qk, rows, rotate)
    other = pair_statistics(QK(of_pairs(basis, qk.q), of_pairs(basis, qk.k)), rows, rotate)
    for name, x_HF in vars(plain).items():
        torch.testing.assert_close(getattr(other, name), x_HF, atol=1e-5, rtol=1e-5)


def test_the_answer_changes_nothing(inputs):
    rows, qk = asked_rows(inputs), random_qk(inputs.input_ids_BL.shape[1])
    answer_L = inputs.labels_BL[0] != IGNORED
    changed = QK(qk.q.clone(), qk.k.clone())
    changed.q[:, answer_L], changed.k[:, answer_L] = 9.0, 9.0
    plain, other = pair_statistics(qk, rows, rotate), pair_statistics(changed, rows, rotate)
    for name, x_HF in vars(plain).items():
        assert torch.equal(getattr(other, name), x_HF)
