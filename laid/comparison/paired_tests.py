"""Paired tests of two methods on the entries that both were asked.

Shape suffixes: S training seeds, E entries of one haystack size, R bootstrap replicates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from laid.comparison.bootstrap import Replicates
from laid.comparison.methods import Method, not_paired
from laid.evaluation.percentile_interval import interval
from laid.evaluation.wilson import Interval

LEVEL = 0.05

Key = TypeVar("Key", int, str)
Drawn = tuple[Replicates | None, Replicates | None]
"""The bootstrap replicates of two methods; None for one without records."""


@dataclass(frozen=True)
class PairedTest:
    """One method less another, at some haystack sizes.

    Attributes:
        sizes: several count alike.
        difference: of the accuracies, from -1 to 1.
        interval: 95%, by the paired bootstrap.
        ahead, behind: of the n entries, those at which the method did better, worse.
        p: of the exact test.
        adjusted: p after Holm's correction over the family that it was made in.
    """

    sizes: tuple[int, ...]
    difference: float
    interval: Interval
    ahead: int
    behind: int
    n: int
    p: float
    adjusted: float

    @property
    def significant(self) -> bool:
        """Whether the difference is significant by the test and by the interval."""
        low, high = self.interval
        return self.adjusted < LEVEL and not low <= 0 <= high


def sign_flip(differences: Sequence[int]) -> float:
    """The exact two-sided p of whole-numbered differences, one an entry.

    Under the hypothesis that it makes no difference which method is which, each entry's difference
    is as likely to have either sign. p is the share of all 2^E sign patterns whose sum is at least
    as far from 0 as the one found; they are counted, not sampled. With differences of -1, 0 and 1
    it is McNemar's exact test.
    """
    spread = np.ones(1)
    # Multiplying out one entry after another: at index i stands the probability of the sum
    # i - total, the sums being all those between -total and total.
    for step in (abs(d) for d in differences if d):
        wider = np.zeros(len(spread) + 2 * step)
        wider[: len(spread)] += spread / 2
        wider[2 * step :] += spread / 2
        spread = wider
    total = len(spread) // 2
    far = np.abs(np.arange(-total, total + 1)) >= abs(sum(differences))
    return min(1.0, float(spread[far].sum()))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction for several tests (Scandinavian Journal of Statistics 6, 1979).

    Rejecting where the result is below a level keeps the chance of any false rejection below it.
    """
    adjusted, worst = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        worst = max(worst, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = worst
    return adjusted


def paired_test(
    one: Method, other: Method, sizes: Sequence[int], replicates: Drawn
) -> PairedTest | None:
    """One method less another over some sizes together; None where they can't be paired.

    With several training seeds, an entry's difference is that of the means over seeds.
    """
    if not sizes or any(not_paired(one, other, size) for size in sizes):
        return None
    assert one.answers and other.answers and replicates[0] and replicates[1]
    whole: list[int] = []
    means, drawn = [], []
    for size in sizes:
        one_SE, other_SE = one.answers.correct_SE[size], other.answers.correct_SE[size]
        # Times both numbers of seeds, so that it is a whole number.
        difference_E = len(other_SE) * one_SE.sum(0) - len(one_SE) * other_SE.sum(0)
        whole += difference_E.tolist()
        means.append(difference_E.mean() / (len(one_SE) * len(other_SE)))
        drawn.append(replicates[0][size] - replicates[1][size])
    p = sign_flip(whole)
    return PairedTest(
        sizes=tuple(sizes),
        difference=float(np.mean(means)),
        interval=interval(np.mean(drawn, axis=0)),
        ahead=sum(d > 0 for d in whole),
        behind=sum(d < 0 for d in whole),
        n=len(whole),
        p=p,
        adjusted=p,
    )


def corrected(family: Sequence[PairedTest | None]) -> list[PairedTest | None]:
    """The same comparisons with p adjusted as one family."""
    adjusted = iter(holm([c.p for c in family if c is not None]))
    return [c and replace(c, adjusted=next(adjusted)) for c in family]


def family(
    one: Method, other: Method, replicates: Drawn, parts: Mapping[Key, Sequence[int]]
) -> dict[Key, PairedTest | None]:
    """One method less another over each of several parts of the sizes, corrected as one family."""
    found = [paired_test(one, other, sizes, replicates) for sizes in parts.values()]
    return dict(zip(parts, corrected(found), strict=True))
