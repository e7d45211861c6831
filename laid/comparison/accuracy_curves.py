"""What is computed of accuracy by haystack size: effective window, decay, gain, ratios to a base.

Curves are over haystacks, so entries without images, which are the size 0, are no point of them.

Shape suffixes: R replicates (or one row for the models themselves), N haystack sizes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Number = TypeVar("Number", float, Floats)


class Bounds(NamedTuple):
    """What is known of a quantity: exactly (both the same), or that it lies between two."""

    low_R: Floats
    high_R: Floats


def with_images(sizes: Iterable[int]) -> list[int]:
    """The sizes above 0, ascending."""
    return sorted(size for size in sizes if size)


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
    sizes, accuracy_RN = _rows(accuracy)
    above_RN = accuracy_RN > threshold
    rows = np.arange(len(accuracy_RN))
    first = np.argmin(above_RN, axis=1)  # the first size that isn't above
    before = np.maximum(first - 1, 0)
    high, low = accuracy_RN[rows, before], accuracy_RN[rows, first]
    logs = np.log(sizes)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (high - threshold) / (high - low)
        crossing = np.exp(logs[before] + share * (logs[first] - logs[before]))
    always = above_RN.all(axis=1)
    never = (first == 0) & ~always
    return Bounds(
        np.select([always, never], [sizes[-1], 0.0], crossing),
        np.select([always, never], [np.inf, sizes[0]], crossing),
    )


def window_ratio(window: Bounds, base: Bounds) -> Bounds:
    """How many times as long a window is as the base's."""
    with np.errstate(divide="ignore"):
        return Bounds(window.low_R / base.high_R, window.high_R / base.low_R)


def decay(accuracy: Mapping[int, Floats], over: Sequence[int] | None = None) -> Floats:
    """Accuracy lost with each doubling of the haystack: minus the slope of a straight line,
    fitted by least squares to accuracy against log2 of the size, each size counting alike.

    Args:
        over: the sizes, two or more above 0; None: all of ``accuracy``.
    """
    sizes, accuracy_RN = _rows({s: accuracy[s] for s in over} if over else accuracy)
    assert len(sizes) > 1
    centred = np.log2(sizes) - np.log2(sizes).mean()
    slopes: Floats = -(accuracy_RN @ centred) / (centred @ centred)
    # A level curve's slope, of which the fit leaves a rounding error.
    return np.where(np.abs(slopes) < 1e-12, 0.0, slopes)


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


def gain(
    accuracy: Mapping[int, Number], base: Mapping[int, Number], sizes: Iterable[int]
) -> Number:
    """The mean over haystack sizes of the relative change against the base, as a share.

    The paper doesn't define its average gain; this gives most of what it prints (docs/paper.md).

    Args:
        accuracy: of the method, by size: a number, or one a bootstrap replicate; base likewise.
        sizes: over which to take the mean, at least one, each in both.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        changes = [np.divide(accuracy[size], base[size]) - 1 for size in sizes]
    # Nothing of nothing is no change.
    total = sum(np.where(np.isnan(change), 0.0, change) for change in changes)
    return cast(Number, np.divide(total, len(changes)))


def _rows(accuracy: Mapping[int, Floats]) -> tuple[Floats, Floats]:
    """Sizes above 0, ascending, and ``accuracy_RN``."""
    sizes = with_images(accuracy)
    rows = np.stack([np.atleast_1d(accuracy[size]) for size in sizes], axis=1)
    return np.array(sizes, dtype=float), rows
