"""The entry's needles in place of what the teacher looks at."""

from dataclasses import replace

import pytest
import torch
from bare_entry import BARE

from laid.losses.attention_rows import question_rows
from laid.losses.image_tokens import images_of
from laid.losses.retrieval_loss import looked_for, needles
from laid.losses.virtual_haystack import at_random_slots


def test_a_batch_knows_its_needles(haystacks):
    batch = haystacks()
    marks = batch.inputs.needle_I.split([entry.size for entry in batch.entries])
    for entry, needle_I in zip(batch.entries, marks, strict=True):
        assert tuple(needle_I.nonzero()[:, 0].tolist()) == entry.needles


def test_needles_are_the_targets_wherever_they_stand(haystacks):
    """Shared equally among several needles; what the teacher looks at has no influence."""
    inputs = haystacks(rows=[2, 5, 1]).inputs
    mark_I = torch.zeros(inputs.images, dtype=torch.bool)
    images, rows = images_of(inputs), question_rows(inputs)
    first_I = [images.haystack_M.tolist().index(row) for row in range(3)]
    mark_I[[first_I[0], first_I[0] + 1, first_I[1], first_I[2]]] = True
    inputs = replace(inputs, needle_I=mark_I)
    generator = torch.Generator().manual_seed(0)
    place = at_random_slots(
        rows, images.question_B, images, images.own_BM, 40, generator, distractors=True
    )
    needle_BM = needles(inputs, place.own_BM)
    assert needle_BM.sum(1).tolist() == [2, 1, 1]
    logits = torch.randn(*rows.columns_BR.shape, 6, images.images, generator=generator)
    p_BRM, focus_BR, candidate_BRM = looked_for(logits, place, 0.0025, needle_BM)
    for row in range(3):
        expected_M = needle_BM[row] / needle_BM[row].sum()
        assert torch.equal(p_BRM[row], expected_M.expand_as(p_BRM[row]))
    assert torch.equal(focus_BR, torch.ones_like(focus_BR))
    theirs = looked_for(logits, place, 0.0025, None)[2]
    assert torch.equal(candidate_BRM, theirs)


def test_the_loss_falls_where_the_needles_are_looked_at(build_retrieval, batch_loss, haystacks):
    """Between two labels of one batch, the loss is lower for the image that the student prefers."""
    inputs = haystacks(rows=[2]).inputs
    term = build_retrieval(target="label", distractors="none", reach=0)
    losses = []
    for needle in range(inputs.images):
        mark_I = torch.zeros(inputs.images, dtype=torch.bool)
        mark_I[needle] = True
        losses.append(batch_loss(term, replace(inputs, needle_I=mark_I)))
    assert len(set(map(float, losses))) == inputs.images
    # -log q of each image: their softmin is 1 for one head and one pair, and at most 1 in the mean.
    assert sum(torch.exp(-torch.as_tensor(loss)) for loss in losses) <= 1 + 1e-6


@pytest.mark.parametrize("target", ["teacher", "label"])
@pytest.mark.parametrize(
    "settings",
    [
        {"distractors": "none", "reach": 0},
        {"distractors": "none"},
        {"distractors": "batch"},
        {"distractors": "bank", "bank_tokens": 200},
    ],
    ids=["as shown", "at slots", "batch", "bank"],
)
def test_an_entry_without_images_counts_as_0(
    build_retrieval, student, teacher, haystacks, settings, target
):
    """So a batch of it and a haystack is two batches of one; gradients are those of the haystack
    alone, halved."""
    term = build_retrieval(target=target, **settings).train()

    def step(rows):
        inputs = haystacks(rows=rows).inputs
        ours, theirs = student.signals(inputs, term.of_student), None
        with torch.no_grad():
            theirs = teacher.signals(inputs, term.of_teacher)
        loss = term(ours, theirs, inputs)
        student.zero_grad()
        (loss + 0.0 * sum(qk.q.sum() for qk in ours.qk.values())).backward()
        parameters = student.named_parameters()
        return loss, {n: p.grad for n, p in parameters if p.grad is not None}

    haystack, of_haystack = step([2])
    term = build_retrieval(target=target, **settings).train()
    both, of_both = step([BARE, 2])
    torch.testing.assert_close(both, haystack / 2)
    for name, grad in of_haystack.items():
        torch.testing.assert_close(of_both[name], grad / 2, rtol=1e-4, atol=1e-6)
    bank = term.bank and term.bank.content()
    alone, of_alone = step([BARE])
    assert alone == 0
    assert not any(grad.any() for grad in of_alone.values())
    after = term.bank and term.bank.content()
    assert (after and after.images.images) == (bank and bank.images.images)
    again, of_again = step([2])  # with a bank, among images of an earlier step
    assert torch.isfinite(again)
    assert all(torch.isfinite(grad).all() for grad in of_again.values())
