"""Effective window and decay of curves drawn by hand."""

import numpy as np
import pytest

from laid.comparison.accuracy_curves import (
    Bounds,
    decay,
    decay_ratio,
    effective_window,
    window_ratio,
)


def curve(**accuracy):
    return {int(size[1:]): np.array([value]) for size, value in accuracy.items()}


def window(threshold=0.5, **accuracy):
    low, high = effective_window(curve(**accuracy), threshold)
    return low.item(), high.item()


def test_between_two_sizes_it_is_interpolated_in_their_logarithm():
    # Half-way down between 10 and 40 images is at 20, their geometric mean.
    assert window(_1=0.9, _10=0.6, _40=0.4) == pytest.approx((20, 20))
    # A quarter of the way down.
    assert window(_10=0.55, _160=0.35)[0] == pytest.approx(10 * 16**0.25)


def test_at_a_tested_size_that_stands_at_the_threshold_the_window_ends():
    assert window(_1=0.9, _10=0.5, _100=0.4) == pytest.approx((10, 10))


def test_a_curve_that_never_falls_reaches_beyond_the_largest_size():
    assert window(_1=0.9, _150=0.51) == (150, np.inf)


def test_a_curve_that_begins_below_has_a_window_before_the_smallest_size():
    assert window(_2=0.5, _10=0.9) == (0, 2)


def test_a_rise_after_the_first_fall_does_not_lengthen_it():
    fallen = window(_1=0.9, _10=0.6, _40=0.4, _100=0.4)
    assert window(_1=0.9, _10=0.6, _40=0.4, _100=0.7) == fallen


def test_a_stricter_threshold_never_lengthens_it():
    accuracy = {"_1": 0.95, "_10": 0.8, "_50": 0.6, "_150": 0.45}
    lengths = [window(threshold, **accuracy)[0] for threshold in (0.5, 0.6, 0.7, 0.9)]
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) == 4


def test_every_replicate_has_its_own():
    values = {1: [0.9, 0.9, 0.4], 10: [0.6, 0.8, 0.9], 40: [0.4, 0.7, 0.9]}
    both = effective_window({s: np.array(v) for s, v in values.items()}, 0.5)
    assert both.low_R == pytest.approx([20, 40, 0])
    assert both.high_R == pytest.approx([20, np.inf, 1])


def ratio(one, base):
    low, high = window_ratio(*(Bounds(*map(np.array, [[b] for b in of])) for of in (one, base)))
    return low.item(), high.item()


def test_the_ratio_of_windows_is_known_as_far_as_they_are():
    assert ratio((60, 60), (20, 20)) == (3, 3)
    assert ratio((150, np.inf), (50, 50)) == (3, np.inf)  # at least 3
    assert ratio((75, 75), (150, np.inf)) == (0, 0.5)  # at most a half
    assert ratio((150, np.inf), (150, np.inf)) == (0, np.inf)  # unknown
    assert ratio((10, 10), (0, 1)) == (10, np.inf)
    assert ratio((0, 1), (10, 10)) == (0, 0.1)


def test_decay_is_what_is_lost_with_each_doubling():
    assert decay(curve(_1=0.9, _2=0.8, _4=0.7, _8=0.6)).item() == pytest.approx(0.1)
    assert decay(curve(_3=0.8, _96=0.8)).item() == pytest.approx(0)


def test_a_level_curve_does_not_decay_whatever_the_rounding():
    level = decay(curve(_1=1.0, _10=1.0, _30=1.0))
    assert level.item() == 0.0
    assert decay_ratio(level, np.array([0.02])) == (np.inf, np.inf)


def test_decay_is_the_least_squares_slope():
    rng = np.random.default_rng(1)
    sizes = (1, 2, 5, 10, 20, 50, 100, 150)
    accuracy = {size: rng.random(3) for size in sizes}
    for index, rate in enumerate(decay(accuracy)):
        slope, _ = np.polyfit(np.log2(sizes), [accuracy[s][index] for s in sizes], 1)
        assert rate == pytest.approx(-slope)


@pytest.mark.parametrize(
    ("rate", "base", "expected"),
    [
        (0.02, 0.10, (5, 5)),
        (0.10, 0.02, (0.2, 0.2)),
        (-0.01, 0.10, (np.inf, np.inf)),  # it doesn't decay at all
        (0.0, 0.10, (np.inf, np.inf)),
        (0.10, -0.01, (0, 0)),
        (-0.01, -0.01, (0, np.inf)),  # neither does: unknown
    ],
)
def test_slower_is_the_bases_decay_over_the_methods(rate, base, expected):
    low, high = decay_ratio(np.array([rate]), np.array([base]))
    assert (low.item(), high.item()) == pytest.approx(expected)
