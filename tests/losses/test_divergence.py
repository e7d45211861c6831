"""Eq. 8's divergence, and cross-entropy, on the answer's tokens."""

import pytest
import torch

from laid.losses.cross_entropy import sft_loss
from laid.losses.divergence import kl_loss

N, V = 5, 11
ROWS = torch.tensor([0, 0, 1, 2, 2])


def logits(seed, width=V):
    return torch.randn(N, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_kl(student, teacher, tau, vocabulary):
    """Row by row, number by number, as Eq. 8 is printed."""
    by_row = {}
    for row, s, t in zip(ROWS.tolist(), student, teacher, strict=True):
        p_s = torch.softmax(s[:vocabulary] / tau, -1)
        p_t = torch.softmax(t[:vocabulary] / tau, -1)
        value = sum(p_t[i] * torch.log(p_t[i] / p_s[i]) for i in range(vocabulary))
        by_row.setdefault(row, []).append(tau**2 * value)
    return torch.stack([torch.stack(values).mean() for values in by_row.values()]).mean()


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("vocabulary", [V, 7])
def test_kl_is_equation_8(tau, vocabulary):
    s, t = logits(0), logits(1)
    loss = kl_loss(s, t, ROWS, 3, temperature=tau, vocabulary=vocabulary)
    torch.testing.assert_close(loss.double(), plain_kl(s, t, tau, vocabulary), rtol=1e-5, atol=1e-6)


def test_the_kl_of_a_model_with_itself_is_zero_and_else_positive():
    s, t = logits(0), logits(1)
    assert kl_loss(s, s, ROWS, 3, temperature=2.0, vocabulary=V).abs() < 1e-7
    assert kl_loss(s, t, ROWS, 3, temperature=2.0, vocabulary=V) > 0


def test_vocabularies_padded_differently_are_compared_on_the_common_ids():
    s, t = logits(0, width=9), logits(1, width=13)
    loss = kl_loss(s, t, ROWS, 3, temperature=1.0, vocabulary=8)
    torch.testing.assert_close(loss.double(), plain_kl(s, t, 1.0, 8), rtol=1e-5, atol=1e-6)


def test_the_gradient_of_the_kl_is_tau_times_the_difference_of_probabilities():
    s, t, tau = logits(0).requires_grad_(), logits(1), 2.0
    kl_loss(s, t, ROWS, 3, temperature=tau, vocabulary=V).backward()
    share = torch.tensor([1 / 2, 1 / 2, 1, 1 / 2, 1 / 2])[:, None] / 3
    expected = tau * share * (torch.softmax(s / tau, -1) - torch.softmax(t / tau, -1))
    torch.testing.assert_close(s.grad, expected.detach(), rtol=1e-4, atol=1e-6)


def test_sft_is_the_mean_over_entries_of_each_entrys_mean():
    s = logits(0)
    labels = torch.tensor([1, 2, 3, 4, 5])
    nll = -s.log_softmax(-1)[range(N), labels]
    expected = (nll[:2].mean() + nll[2] + nll[3:].mean()) / 3
    loss = sft_loss(s, labels, ROWS, 3)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_batch_without_answer_tokens_keeps_its_graph():
    s = torch.zeros(0, V, requires_grad=True)
    loss = sft_loss(s, torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 2)
    loss.backward()
    assert loss == 0
    assert s.grad is not None
