"""Memory and FLOPs of a planned run, as text."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from laid.common.tables import Table, text
from laid.planning.memory_tracker import KINDS, MemoryTracker, Peak, Work
from laid.planning.simulated_step import BACKWARD, BUILT, OPTIMIZER, STUDENT, TEACHER, TEST

GIB = 2**30
_SHOWN = {
    BUILT: "models built",
    TEACHER: "teacher forward",
    STUDENT: "student forward, loss",
    BACKWARD: "backward",
    OPTIMIZER: "clipping, optimizer",
    TEST: "test",
}


@dataclass(frozen=True)
class Limit:
    """Memory of a device in bytes, and how much of it a plan keeps free."""

    memory: float
    spare: float


def highest(tracker: MemoryTracker) -> tuple[str, Peak]:
    """The phase with the most memory, and its peak."""
    return max(tracker.peaks().items(), key=lambda item: item[1].bytes)


def memory_table(tracker: MemoryTracker) -> str:
    """Memory at the peak of every phase, and what it consists of; GiB, or MiB for tiny models."""
    peaks = tracker.peaks()
    name, unit = ("GiB", GIB) if highest(tracker)[1].bytes >= GIB / 10 else ("MiB", GIB / 1024)
    rows = {
        words: [peak.bytes, *(peak.of.get(kind, 0) for kind in KINDS)]
        for phase, words in _SHOWN.items()
        if (peak := peaks.get(phase)) is not None
    }
    return _amounts(f"{name} at the peak", KINDS, rows, unit, digits=2)


def flops_table(flops: Counter[tuple[str, Work]]) -> str:
    """TFLOP of one batch by phase and kind; GFLOP for tiny models."""
    rows: dict[str, Counter[str]] = {}
    for (phase, work), amount in flops.items():
        name = "recomputed in backward" if work.again else _SHOWN.get(phase, phase)
        of_decoder = "attention" if work.attention else "decoder"
        rows.setdefault(name, Counter())["vision" if work.vision else of_decoder] += amount
    columns = ("decoder", "attention", "vision")
    rows["all"] = sum(rows.values(), Counter())
    name, unit = ("TFLOP", 1e12) if rows["all"].total() >= 1e12 else ("GFLOP", 1e9)
    amounts = {words: [row.total(), *(row[c] for c in columns)] for words, row in rows.items()}
    return _amounts(name, columns, amounts, unit, digits=1)


def _amounts(
    what: str, columns: Sequence[str], rows: dict[str, list[int]], unit: float, digits: int
) -> str:
    """A table of ``rows`` in ``unit``, first the total and then the columns."""
    cells = [[words, *(f"{n / unit:.{digits}f}" for n in row)] for words, row in rows.items()]
    widths = [24, 6, *[11] * len(columns)]
    return text(Table("plan", what, [what, "total", *columns], cells, widths=widths))


def verdict(what: str, tracker: MemoryTracker, limit: Limit, remedies: list[str]) -> str:
    """Whether it fits, and which settings to change when it does not."""
    peak, memory, spare = (n / GIB for n in (highest(tracker)[1].bytes, limit.memory, limit.spare))
    left = memory - spare - peak
    of = f"{peak:.1f} GiB of {memory:.1f} GiB less {spare:.1f} kept free"
    if left >= 0:
        return f"{what} fits: {of}; {left:.1f} GiB are left"
    return "\n  - ".join([f"{what} does not fit: {of}; {-left:.1f} over", *remedies])
