"""The divergence over the teacher's most probable ids, with all others as one."""

from types import SimpleNamespace

import pytest
import torch
from losses.conftest import models
from torch.testing import assert_close

from laid.common.errors import UserError
from laid.losses.divergence import DivergenceArgs, kl_loss
from laid.signals.model_inputs import IGNORED, Answers
from laid.signals.model_signals import Signals, Wanted
from laid.signals.top_logits import TopK, TopLogits, joined, top_logits

N, V, TAU = 5, 11, 2.0
ROWS = torch.tensor([0, 0, 1, 2, 2])


def logits(seed, width=V + 2):
    return 3 * torch.randn(N, width, generator=torch.Generator().manual_seed(seed))


def divergence(student, teacher, count=None):
    if count is not None:
        teacher = top_logits(teacher, TopK(count, TAU, V))
    return kl_loss(student, teacher, ROWS, 3, temperature=TAU, vocabulary=V)


@pytest.mark.parametrize("count", range(1, V))
def test_it_is_the_divergence_of_the_merged_distributions(count):
    """Number by number, of K + 1 classes; and so no more than that of all ids."""
    s, t = logits(0), logits(1)
    p_s, p_t = ((x[:, :V].double() / TAU).softmax(-1) for x in (s, t))
    each = []
    for n in range(N):
        top = p_t[n].argsort(descending=True)[:count].tolist()
        rest = [i for i in range(V) if i not in top]
        classes = [*((p_t[n, i], p_s[n, i]) for i in top), (p_t[n, rest].sum(), p_s[n, rest].sum())]
        each.append(TAU**2 * sum(a * torch.log(a / b) for a, b in classes))
    expected = (torch.stack(each[:2]).mean() + each[2] + torch.stack(each[3:]).mean()) / 3
    found = divergence(s, t, count)
    assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert found <= divergence(s, t) + 1e-6


def test_it_grows_with_their_number_to_that_of_all_ids():
    """What is merged of one id is that id."""
    s, t = logits(0), logits(1)
    by_count = torch.stack([divergence(s, t, count) for count in range(1, V)])
    assert (by_count.diff() >= -1e-6).all()
    assert by_count[0] < 0.9 * divergence(s, t)
    assert_close(by_count[-1], divergence(s, t))


def test_its_gradient_is_that_of_the_merged_distributions():
    """An id among the others is pulled as they are together."""
    s, t = logits(0).requires_grad_(), logits(1)
    divergence(s, t, 3).backward()
    top = top_logits(t, TopK(3, TAU, V))
    p_s, p_t = ((x[:, :V] / TAU).softmax(-1).detach() for x in (s, t))
    is_top = torch.zeros(N, V, dtype=torch.bool).scatter(1, top.ids_NK, True)
    rest_s, rest_t = ((p * ~is_top).sum(-1, keepdim=True) for p in (p_s, p_t))
    merged_t = torch.where(is_top, p_t, p_s * rest_t / rest_s)
    share = torch.tensor([1 / 2, 1 / 2, 1, 1 / 2, 1 / 2])[:, None] / 3
    assert_close(s.grad[:, :V], TAU * share * (p_s - merged_t), rtol=1e-4, atol=1e-6)
    assert not s.grad[:, V:].any()


def test_a_teacher_that_is_sure_leaves_nothing_to_the_others():
    """Their mass underflows, and the loss stays finite."""
    t = torch.full((N, V), -1e4)
    t[:, 4] = 1e4
    top = top_logits(t, TopK(2, TAU, V))
    assert top.ids_NK[:, 0].tolist() == [4] * N
    assert top.log_rest_N.exp().eq(0).all()
    assert torch.isfinite(divergence(logits(0), t, 2))


def test_as_many_as_the_tokenizer_has_are_all():
    """The term is the same."""
    whole, same, few = (
        DivergenceArgs(top_k=k, temperature=TAU).build(models()) for k in (None, 700, 3)
    )
    assert whole.of_teacher == same.of_teacher == Wanted(logits=True)
    assert few.of_teacher == Wanted(top_k=TopK(3, TAU, 700))
    labels_BL = torch.tensor([[IGNORED, 1, 2], [IGNORED, IGNORED, 3]])
    labels = SimpleNamespace(labels_BL=labels_BL, answers=Answers.of(labels_BL))
    s, t = (Signals({}, logits(seed, 800)[:3]) for seed in (0, 1))
    found = [term(s, t.only(term.of_teacher), labels) for term in (whole, same, few)]
    assert_close(found[0], found[1])
    assert 0 < found[2] < found[0]
    for count in (0, -1):
        with pytest.raises(UserError, match="expected at least 1, or null"):
            DivergenceArgs(top_k=count)
    with pytest.raises(UserError, match="top_k 701: the tokenizer has 700 ids"):
        DivergenceArgs(top_k=701).build(models())


def test_terms_that_want_different_logits_want_all():
    one, other = Wanted(top_k=TopK(3, 1.0, V)), Wanted(top_k=TopK(3, 2.0, V))
    assert one | one == Wanted() | one
    assert (one | one).top_k == one.top_k
    assert (one | other).logits
    assert (one | other).top_k is None
    assert (one | Wanted(logits=True)).top_k is None


def test_those_of_haystacks_are_put_together():
    parts = [top_logits(logits(seed), TopK(3, TAU, V)) for seed in (0, 1)]
    found = joined(parts, torch.device("cpu"))
    assert isinstance(found, TopLogits)
    assert torch.equal(found.ids_NK, torch.cat([part.ids_NK for part in parts]))
    assert torch.equal(found.log_rest_N, torch.cat([part.log_rest_N for part in parts]))
