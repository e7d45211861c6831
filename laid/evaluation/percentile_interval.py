"""The percentile interval of bootstrap replicates."""

import numpy as np
from numpy.typing import NDArray

REPLICATES = 10_000
CONFIDENCE = 0.95


def interval(
    low_R: NDArray[np.float64], high_R: NDArray[np.float64] | None = None
) -> tuple[float, float]:
    """The percentile interval: the middle 95% of the replicates of a statistic.

    Where it is known only by bounds, of the lower and the upper bounds.
    """
    tail = (1 - CONFIDENCE) / 2
    # Not between two replicates: one of them may be infinite.
    low = np.quantile(low_R, tail, method="lower")
    high = np.quantile(low_R if high_R is None else high_R, 1 - tail, method="higher")
    return float(low), float(high)
