"""Effective window and decay rate: how far a model's accuracy reaches, and how fast it falls.

Shape suffixes: R replicates (or one row for the models themselves), N haystack sizes.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Bounds(NamedTuple):
    """What is known of a quantity: exactly (both the same), or that it lies between two."""

    low_R: Floats
    high_R: Floats


def effective_window(accuracy: Mapping[int, Floats], threshold: float) -> Bounds:
    """The largest haystack size up to which accuracy stays above the threshold.

    Between two tested sizes accuracy is interpolated linearly in the logarithm of the size: the
    sizes are spaced so, and accuracy falls more nearly evenly with it than with the size itself.
    The window ends where the curve first comes down to the threshold; a later rise doesn't
    lengthen it.

    Args:
        accuracy: by haystack size, one value a replicate.
        threshold: 0.5, which is chance, in the paper's Figure 1.

    Returns:
        In images. Where accuracy is above the threshold at every tested size, from the largest to
        infinity; where it isn't even at the smallest, from 0 to the smallest.
    """
    sizes = sorted(accuracy)
    accuracy_RN = np.stack([np.atleast_1d(accuracy[size]) for size in sizes], axis=1)
    above_RN = accuracy_RN > threshold
    rows = np.arange(len(accuracy_RN))
    first = np.argmin(above_RN, axis=1)  # the first size that isn't above
    before = np.maximum(first - 1, 0)
    high, low = accuracy_RN[rows, before], accuracy_RN[rows, first]
    logs = np.log(np.array(sizes, dtype=float))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (high - threshold) / (high - low)
        crossing = np.exp(logs[before] + share * (logs[first] - logs[before]))
    never, always = first == 0, above_RN.all(axis=1)
    never &= ~always
    return Bounds(
        np.select([always, never], [float(sizes[-1]), 0.0], crossing),
        np.select([always, never], [np.inf, float(sizes[0])], crossing),
    )


def window_ratio(window: Bounds, base: Bounds) -> Bounds:
    """How many times as long a window is as the base's."""
    with np.errstate(divide="ignore"):
        return Bounds(window.low_R / base.high_R, window.high_R / base.low_R)


def decay(accuracy: Mapping[int, Floats]) -> Floats:
    """Accuracy lost with each doubling of the haystack: minus the slope of a straight line,
    fitted by least squares to accuracy against log2 of the size, each size counting alike.

    At least two sizes are needed.
    """
    sizes = sorted(accuracy)
    assert len(sizes) > 1
    logs = np.log2(np.array(sizes, dtype=float))
    centred = logs - logs.mean()
    accuracy_RN = np.stack([np.atleast_1d(accuracy[size]) for size in sizes], axis=1)
    slopes: Floats = -(accuracy_RN @ centred) / (centred @ centred)
    return slopes


def decay_ratio(rate: Floats, base: Floats) -> Bounds:
    """How many times slower accuracy decays than the base's: the base's rate over its own.

    Infinite where only the base decays, 0 where only the other does, and unknown (0 to infinity)
    where neither does.
    """
    falls, base_falls = rate > 0, base > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = base / rate
    return Bounds(
        np.select([falls & base_falls, base_falls], [ratio, np.inf], 0.0),
        np.select([falls & base_falls, falls], [ratio, 0.0], np.inf),
    )
