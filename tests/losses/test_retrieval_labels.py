"""The entry's needles in place of what the teacher looks at."""

from dataclasses import replace

import pytest
import torch

from laid.common.errors import UserError
from laid.losses.attention_rows import question_rows
from laid.losses.image_tokens import images_of
from laid.losses.retrieval_loss import looked_for, needles
from laid.losses.virtual_haystack import as_shown, at_random_slots


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


def test_an_entry_without_needles_has_no_label(haystacks):
    inputs = haystacks(rows=[0, 2]).inputs
    inputs = replace(inputs, needle_I=torch.zeros_like(inputs.needle_I))
    own_BM = as_shown(question_rows(inputs), images_of(inputs)).own_BM
    with pytest.raises(UserError, match="does not say which images the question is about"):
        needles(inputs, own_BM)
