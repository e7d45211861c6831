"""Batches of haystacks, and one of them alone."""

from dataclasses import fields, replace

import pytest
import torch

from laid.signals.model_inputs import haystack_alone


def assert_same(one, other):
    for field in fields(one):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        same = torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs
        assert same, field.name


@pytest.mark.parametrize("row", range(3))
def test_a_haystack_of_a_batch_is_what_it_is_alone(haystacks, row):
    """Of rows of 4, 1 and 3 images."""
    rows = [5, 0, 2]
    assert_same(
        haystack_alone(haystacks(rows=rows).inputs, row), haystacks(rows=rows[row : row + 1]).inputs
    )


def test_a_batch_without_pixels_has_none_of_one_haystack(haystacks):
    batch, alone = (
        replace(haystacks(rows=r).inputs, pixel_values_PC=torch.empty(0)) for r in ([5, 0], [0])
    )
    assert_same(haystack_alone(batch, 1), alone)
