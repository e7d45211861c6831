"""Memory and FLOPs of a planned run, as text."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from laid.common.tables import Table, text
from laid.planning.memory_tracker import KINDS, MemoryTracker, Work
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


def highest(tracker: MemoryTracker) -> Counter[str]:
    """Bytes of each of ``KINDS`` where they are most."""
    return max(tracker.peaks().values(), key=Counter.total)


def memory_table(tracker: MemoryTracker) -> str:
    """Memory at the peak of every phase, and what it consists of; GiB, or MiB for tiny models."""
    name, unit = ("GiB", GIB) if highest(tracker).total() >= GIB / 10 else ("MiB", GIB / 1024)
    peaks = tracker.peaks()
    rows = {phase: peaks[phase] for phase in _SHOWN if phase in peaks}
    return _amounts(f"{name} at the peak", KINDS, rows, unit, digits=2)


def flops_table(flops: Counter[tuple[str, Work]]) -> str:
    """TFLOP of one batch by phase and kind; GFLOP for tiny models."""
    rows: dict[str, Counter[str]] = {}
    for (phase, work), amount in flops.items():
        name = "recomputed in backward" if work.again else phase
        rows.setdefault(name, Counter())[work.part] += amount
    rows["all"] = sum(rows.values(), Counter())
    name, unit = ("TFLOP", 1e12) if rows["all"].total() >= 1e12 else ("GFLOP", 1e9)
    return _amounts(name, ("decoder", "attention", "vision"), rows, unit, digits=1)


def _amounts(
    what: str, columns: Sequence[str], rows: dict[str, Counter[str]], unit: float, digits: int
) -> str:
    """A table of ``rows`` in ``unit``, first the total and then the columns."""
    cells = [
        [_SHOWN.get(name, name)]
        + [f"{n / unit:.{digits}f}" for n in (row.total(), *(row[column] for column in columns))]
        for name, row in rows.items()
    ]
    widths = [24, 6, *[11] * len(columns)]
    return text(Table("plan", what, [what, "total", *columns], cells, widths=widths))


def verdict(what: str, tracker: MemoryTracker, limit: Limit, remedies: list[str]) -> str:
    """Whether it fits, and which settings to change when it does not."""
    peak, memory, spare = (n / GIB for n in (highest(tracker).total(), limit.memory, limit.spare))
    left = memory - spare - peak
    of = f"{peak:.1f} GiB of {memory:.1f} GiB less {spare:.1f} kept free"
    if left >= 0:
        return f"{what} fits: {of}; {left:.1f} GiB are left"
    return "\n  - ".join([f"{what} does not fit: {of}; {-left:.1f} over", *remedies])
