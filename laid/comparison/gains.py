"""The gain columns of the paper's Table 1."""

from collections.abc import Iterable, Mapping
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", float, NDArray[np.float64])


def gain(
    accuracy: Mapping[int, Number], base: Mapping[int, Number], sizes: Iterable[int]
) -> Number:
    """The mean over haystack sizes of the relative change against the base, as a share.

    The paper doesn't define its average gain; this gives most of what it prints (docs/paper.md).

    Args:
        accuracy: of the method, by size: a number, or one a bootstrap replicate.
        base: of the base.
        sizes: over which to take the mean, at least one, each in both.
    """
    changes = [_relative(accuracy[size], base[size]) for size in sizes]
    total: Number = sum(changes[1:], changes[0])
    return total / len(changes)


def _relative(value: Number, base: Number) -> Number:
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.divide(value, base) - 1
    # Nothing of nothing is no change.
    return cast(Number, np.where(np.isnan(change), 0.0, change)[()])
