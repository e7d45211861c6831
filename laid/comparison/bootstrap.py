"""Bootstrap replicates of accuracy by haystack size.

Shape suffixes: R replicates, S training seeds (or those drawn), E entries of one haystack size.
"""

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from laid.comparison.methods import Method
from laid.evaluation.percentile_interval import REPLICATES

_SEED = 20260  # of the draws: a report made twice is the same

Replicates = Mapping[int, NDArray[np.float64]]
"""By haystack size, a method's accuracy in each replicate."""


def replicate(method: Method, replicates: int = REPLICATES) -> Replicates | None:
    """Draw entries, and training seeds where there are several, with replacement.

    Entries are drawn within each haystack size; all seeds' answers to a drawn entry go with it.
    Seeds and entries are crossed, each seed answers each entry, so both are drawn, independently
    (the pigeonhole bootstrap of Owen, Annals of Applied Statistics 1, 2007). A seed is drawn once
    a replicate for all sizes, since it is one model. Of S seeds S - 1 are drawn: as many as S
    would make their spread too small by (S - 1) / S, which matters for two or three.

    The draws follow from the entries' names: methods that were asked the same entries are given
    the same draws, in whatever order they come, so that differences are paired.

    Returns:
        None for a method without records.
    """
    if method.answers is None:
        return None
    seeds = len(method.seeds)
    draw = np.random.default_rng([_SEED, 0, _number(method.label)])
    seeds_RS = draw.integers(0, seeds, size=(replicates, max(1, seeds - 1)))
    found = {}
    for size, correct_SE in method.answers.correct_SE.items():
        key = [method.answers.asked, *method.answers.ids[size]]
        entries = np.random.default_rng([_SEED, size, _number("\n".join(key))])
        count = correct_SE.shape[1]
        entries_RE = entries.integers(0, count, size=(replicates, count))
        mean_RS = np.stack([row_E[entries_RE].mean(1) for row_E in correct_SE], axis=1)
        found[size] = np.take_along_axis(mean_RS, seeds_RS, axis=1).mean(1)
    return found


def _number(text: str) -> int:
    return zlib.crc32(text.encode())
