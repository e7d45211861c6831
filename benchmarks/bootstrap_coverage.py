"""How often the 95% bootstrap interval of a difference holds the true one, by simulation.

    python benchmarks/bootstrap_coverage.py

Entries are hard or easy for every model, seeds of a method are good or bad at every entry, and
each answer has luck of its own; the base is one model. The truth is the difference over all
entries and seeds. docs/evaluation.md has the table.
"""

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from laid.common.tables import Table, text
from laid.comparison.bootstrap import interval, replicate
from laid.comparison.methods import Answers, Method

ENTRIES, TRIALS, REPLICATES = 100, 1500, 600
SKILL = 0.5  # of the method, in standard deviations of luck; the base has 0
SPREADS = (0.0, 0.1, 0.3, 0.6)  # of the seeds' skill


def method(label: str, correct_SE: NDArray[np.bool_]) -> Method:
    """A method that was asked one size, and the same entries as any other."""
    ids = tuple(f"{index:03d}" for index in range(ENTRIES))
    seeds = len(correct_SE)
    answers = Answers("entries", {1: ids}, {1: correct_SE})
    return Method(label, (), (), tuple(range(seeds)), answers)


def coverage(seeds: int, spread: float) -> float:
    """The share of trials whose interval holds the truth."""
    rng = np.random.default_rng([seeds, int(100 * spread)])
    normal = NormalDist()
    truth = normal.cdf(SKILL / (2 + spread**2) ** 0.5) - 0.5
    held = 0
    for trial in range(TRIALS):
        # Other names, other draws.
        hard_E = rng.standard_normal(ENTRIES)
        skill_S1 = SKILL + spread * rng.standard_normal((seeds, 1))
        one = skill_S1 + hard_E + rng.standard_normal((seeds, ENTRIES)) > 0
        base = hard_E + rng.standard_normal((1, ENTRIES)) > 0
        drawn = [replicate(method(f"{name}{trial}", of), REPLICATES) for name, of in
                 (("one", one), ("base", base))]  # fmt: skip
        assert drawn[0] is not None
        assert drawn[1] is not None
        low, high = interval(drawn[0][1] - drawn[1][1])
        held += low <= truth <= high
    return held / TRIALS


def main() -> None:
    density = NormalDist().pdf(SKILL / 2**0.5) / 2**0.5
    rows = []
    for seeds in (1, 2, 3, 5):
        spreads = SPREADS[:1] if seeds == 1 else SPREADS
        rows.append([str(seeds), *(f"{100 * coverage(seeds, s):.1f}%" for s in spreads)])
    header = ["seeds", *(f"{100 * spread * density:.1f}" for spread in SPREADS)]
    notes = ["Columns: standard deviation of the seeds' own accuracies, in points."]
    print(text(Table("coverage", "Coverage of the 95% interval", header, rows, notes)))


if __name__ == "__main__":
    main()
