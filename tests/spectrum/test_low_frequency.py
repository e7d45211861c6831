"""Shares of low-frequency pairs, and their intervals."""

import math

import numpy as np
import pytest

from laid.common.errors import UserError
from laid.spectrum.low_frequency import (
    ALL,
    check_wavelength,
    differences,
    low_pairs,
    low_shares,
    with_intervals,
)
from laid.spectrum.pair_statistics import RotaryPairs
from laid.spectrum.spectrum_measurement import MeasuredSpectrum

PAIRS = RotaryPairs(
    frequency=(1.0, 0.1, 0.01, 0.001), section=("temporal", "temporal", "height", "width")
)


def measured(usage_EF, sizes):
    usage_EF = usage_EF / usage_EF.sum(1, keepdims=True)
    nothing = np.zeros((1, 1, 4))
    return MeasuredSpectrum(
        PAIRS, 100, sizes, nothing, nothing, nothing, nothing, usage_EF, usage_EF[:, ::-1]
    )


def test_a_pair_is_low_where_it_turns_less_than_once_in_that_many_positions():
    assert low_pairs(PAIRS, 2 * math.pi / 0.1 + 1e-6).tolist() == [False, False, True, True]
    assert low_pairs(PAIRS, 2 * math.pi / 0.1 - 1e-6).tolist() == [False, True, True, True]


def test_the_shares_of_sections_add_up_and_those_without_low_pairs_are_left_out():
    usage_EF = np.array([[1.0, 2, 3, 4], [4, 3, 2, 1]])
    shares = low_shares(measured(usage_EF, [2, 10]), 100)
    np.testing.assert_allclose(shares["usage"][ALL], [0.7, 0.3])
    assert list(shares["usage"]) == [ALL, "height", "width"]
    for of in shares.values():
        np.testing.assert_allclose(of["height"] + of["width"], of[ALL])
    np.testing.assert_allclose(shares["variance"][ALL], [0.3, 0.7])


def test_an_interval_is_that_of_haystacks_drawn_within_each_size():
    """Where all of a size are alike, drawing them changes nothing, however sizes differ."""
    sizes = [2] * 10 + [20] * 10
    usage_EF = np.array([[1.0, 1, 1, 1]] * 10 + [[8.0, 1, 1, 1]] * 10)
    share = with_intervals(low_shares(measured(usage_EF, sizes), 100), sizes)["usage"][ALL]
    middle = round((2 / 4 + 2 / 11) / 2, 6)
    assert share.value == middle
    assert share.interval == (middle, middle)


def test_intervals_cover_the_mean_and_shrink_by_pairing():
    random = np.random.default_rng(0)
    truth, inside, sizes = 0.6, 0, [2] * 40
    for _ in range(60):
        low_E = truth + 0.05 * random.standard_normal(40)
        usage_EF = np.stack([1 - low_E, 0 * low_E, low_E, 0 * low_E], axis=1)
        one = low_shares(measured(usage_EF, sizes), 100)
        low, high = with_intervals(one, sizes)["usage"][ALL].interval
        inside += low <= truth <= high
    assert inside / 60 > 0.85
    # The same haystacks, each 0.01 lower.
    other = low_shares(measured(np.add(usage_EF, [0.01, 0, -0.01, 0]), sizes), 100)
    less = with_intervals(differences(other, one), sizes)["usage"][ALL]
    assert less.interval == pytest.approx((-0.01, -0.01), abs=1e-6)
    assert high - low > 0.02


@pytest.mark.parametrize("given", [0.0, -1.0, math.nan, math.inf])
def test_a_wavelength_is_finite_and_above_0(given):
    with pytest.raises(UserError, match=r"--low_wavelength .*: expected a finite number above 0"):
        check_wavelength("--low_wavelength", given)
