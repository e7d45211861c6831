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
        accuracy: of the method, by size: a number, or one a bootstrap replicate; base likewise.
        sizes: over which to take the mean, at least one, each in both.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        changes = [np.divide(accuracy[size], base[size]) - 1 for size in sizes]
    # Nothing of nothing is no change.
    total = sum(np.where(np.isnan(change), 0.0, change) for change in changes)
    return cast(Number, np.divide(total, len(changes)))
