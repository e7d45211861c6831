"""Accuracy with its Wilson score interval."""

import math
from statistics import NormalDist

import numpy as np

from laid.common.errors import UserError

Interval = tuple[float, float]
"""Lower and upper bound."""

DIGITS = 6
"""That the shares of results are rounded to."""


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> Interval:
    """The Wilson score interval of a proportion (Wilson, JASA 22, 1927), without correction.

    Unlike the normal one it stays inside [0, 1], has a width at 0 and n of n, and covers well at
    the n of 100 that a haystack size usually has. correct / n lies within.

    Raises:
        UserError: n is below 1, `correct` isn't within 0 to n, or `confidence`, the share of such
            intervals that hold the true proportion, isn't between 0 and 1.
    """
    if n < 1 or not 0 <= correct <= n:
        expected = "expected at least one answer and from 0 to n correct"
        raise UserError(f"{correct} correct of {n}: {expected}")
    if not 0 < confidence < 1:
        raise UserError(f"confidence is {confidence}, expected a share such as 0.95")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    # At 0 and n of n a bound equals the share exactly; rounding must not push it past.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def accuracy_of(correct: int, n: int) -> tuple[float, Interval]:
    """The share that is correct and its 95% interval, as results have them."""
    # In float32 as torchmetrics divides: in float64 the sixth digit would be another now and then,
    # and the results of one test would differ between versions of laid.
    accuracy = round(float(np.float32(correct) / np.float32(n)), DIGITS)
    low, high = wilson_interval(correct, n)
    return accuracy, (round(low, DIGITS), round(high, DIGITS))
