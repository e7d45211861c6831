"""A model's spectrum over haystacks, and that of the queries it is aligned with."""

import numpy as np
import pytest

from laid.losses.head_mixing import HeadMixing, MixingArgs
from laid.spectrum.spectrum_measurement import measure, mixed_queries


@pytest.fixture
def batches(haystacks):
    return [haystacks(rows=[row]) for row in (0, 3)]


def test_haystacks_count_alike_whatever_their_sizes(student, batches):
    both, one, other = (measure(student, of) for of in (batches, batches[:1], batches[1:]))
    assert both.sizes == [1, 3]
    assert one.positions < other.positions == both.positions
    for name in ("query_NHF", "usage_NHF", "mean_NHF", "variance_NHF"):
        mean = (getattr(one, name) + getattr(other, name)) / 2
        np.testing.assert_allclose(getattr(both, name), mean)
    np.testing.assert_allclose(both.usage_EF.mean(0), both.usage_NHF.mean((0, 1)))
    np.testing.assert_allclose(both.variance_EF.sum(1), 1)


def test_a_mixture_of_one_head_each_has_the_spectrum_of_that_head(teacher, batches):
    args = MixingArgs(normalisation="none", initial="one-hot")
    shape = teacher.shape
    mixing = HeadMixing(shape.heads, shape.heads, shape.head_dim, args)
    own = measure(teacher, batches).query_NHF
    found = mixed_queries(teacher, batches, {(0, 2): mixing, (1, 1): mixing})
    np.testing.assert_allclose(found[0, 2], own[2], rtol=1e-5)
    np.testing.assert_allclose(found[1, 1], own[1], rtol=1e-5)
    halves = HeadMixing(2, shape.heads, shape.head_dim, MixingArgs(initial="uniform"))
    mixed_SF = mixed_queries(teacher, batches, {(0, 2): halves})[0, 2]
    np.testing.assert_allclose(mixed_SF.sum(1), 1)
    assert np.abs(mixed_SF - own[2].mean(0)).max() > 1e-3
