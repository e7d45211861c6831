"""The share of low-frequency pairs, by section of M-RoPE, with bootstrap intervals.

Shape suffixes: E haystacks, F rotary pairs, R bootstrap replicates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from laid.common.errors import UserError
from laid.common.random_streams import stream
from laid.evaluation.percentile_interval import REPLICATES, interval
from laid.evaluation.wilson import DIGITS, Interval
from laid.spectrum.pair_statistics import RotaryPairs
from laid.spectrum.spectrum_measurement import Floats, MeasuredSpectrum

ALL = "all"
MEASURES = ("usage", "variance")

ShareOfHaystacks = dict[str, dict[str, Floats]]
"""By measure and section, ``share_E`` of each haystack."""


@dataclass(frozen=True)
class Share:
    """A mean over haystacks with its 95% bootstrap interval."""

    value: float
    interval: Interval


Shares = dict[str, dict[str, Share]]
"""By measure (usage, variance) and section (all, temporal, ...)."""


def check_wavelength(setting: str, given: float | None) -> None:
    """Refuses a wavelength that no pair can have.

    Raises:
        UserError: it is not a finite number above 0.
    """
    if given is not None and not 0 < given < inf:
        raise UserError(f"{setting} {given}: expected a finite number above 0, or null")


def low_pairs(pairs: RotaryPairs, wavelength: float) -> NDArray[np.bool_]:
    """``low_F``: the pairs whose wavelength is longer, in positions."""
    return np.array(pairs.wavelength) > wavelength


def low_shares(measured: MeasuredSpectrum, wavelength: float) -> ShareOfHaystacks:
    """The share that low-frequency pairs have in each haystack, and that those of each section with
    such pairs have, which add up to it."""
    low_F = low_pairs(measured.pairs, wavelength)
    section_F = np.array(measured.pairs.section)
    names = dict.fromkeys(section_F[low_F].tolist())
    parts = {ALL: low_F, **{name: low_F & (section_F == name) for name in names}}
    by_haystack = {"usage": measured.usage_EF, "variance": measured.variance_EF}
    return {
        measure: {name: x_EF[:, part_F].sum(1) for name, part_F in parts.items()}
        for measure, x_EF in by_haystack.items()
    }


def with_intervals(shares: ShareOfHaystacks, sizes: Sequence[int]) -> Shares:
    """Means over haystacks; intervals by drawing haystacks, within each size, with replacement."""
    drawn_RE = _draws(sizes)
    return {
        measure: {name: _share(share_E, drawn_RE) for name, share_E in of.items()}
        for measure, of in shares.items()
    }


def differences(one: ShareOfHaystacks, other: ShareOfHaystacks) -> ShareOfHaystacks:
    """One model less another in each haystack, for the sections that both have."""
    return {
        measure: {name: of[name] - other[measure][name] for name in of if name in other[measure]}
        for measure, of in one.items()
    }


def _share(share_E: Floats, drawn_RE: NDArray[np.intp]) -> Share:
    low, high = interval(share_E[drawn_RE].mean(1))
    return Share(round(float(share_E.mean()), DIGITS), (round(low, DIGITS), round(high, DIGITS)))


def _draws(sizes: Sequence[int]) -> NDArray[np.intp]:
    """``drawn_RE``, the same for all models, so that differences are paired."""
    random, size_E = stream("spectrum"), np.array(sizes)
    drawn_RE = np.empty((REPLICATES, len(sizes)), dtype=np.intp)
    for size in sorted(set(sizes)):
        (place,) = np.nonzero(size_E == size)
        drawn_RE[:, place] = random.choice(place, (REPLICATES, len(place)))
    return drawn_RE
