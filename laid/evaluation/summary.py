"""From records to results."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import PurePath
from statistics import fmean

import numpy as np

from laid.common.errors import UserError
from laid.common.json_codec import Json, plain
from laid.evaluation.records import Record
from laid.evaluation.results import (
    Counts,
    DepthBin,
    Overall,
    Results,
    SizeCell,
    Training,
    long_sizes,
    short_sizes,
    wilson_interval,
)

DEPTH_BINS = 5
_DIGITS = 6


def summarise(
    records: Iterable[Record],
    *,
    name: str,
    identity: Json,
    command: str,
    seed: int | None,
    records_file: str = "records.jsonl",
    training: Training | None = None,
) -> Results:
    """The results of one test.

    Args:
        name: what tables and figures call the model.
        identity: what was tested, as in the records file.
        seed: the seed that the entries were drawn with, None if nothing was drawn.
        records_file: where the records lie, relative to the folder of the results file.
        training: of a checkpoint; None for a model that was not trained by laid.

    Returns:
        Equal to what `read_results` gives after `write_results`; shares have six digits.

    Raises:
        UserError: if there are no records, an entry occurs twice, `records_file` is absolute, or
            `identity` or the settings of `training` aren't JSON.
    """
    records = list(records)
    if not records:
        raise UserError("no records: there is nothing to summarise, answer at least one entry")
    twice = [entry for entry, times in Counter(r.id for r in records).items() if times > 1]
    if twice:
        found = f"{len(twice)} entries occur twice, {twice[0]!r} for one"
        raise UserError(f"{found}; give each entry's record once")
    if PurePath(records_file).is_absolute():
        why = "so that the two can be moved together"
        given = f"records_file is {records_file}"
        raise UserError(f"{given}, expected a path relative to the results file, {why}")
    groups: dict[int, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.size):
        groups.setdefault(record.size, []).append(record)
    by_size = {
        size: SizeCell(**vars(_overall(here)), needle_depth=_by_depth(here))
        for size, here in groups.items()
    }
    return Results(
        name=name,
        identity=plain(identity, "the identity of a test"),
        command=command,
        seed=seed,
        laid_version=_version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        records_file=records_file,
        training=training and replace(training, settings=plain(training.settings, "settings")),
        overall=_overall(records),
        short=_mean([by_size[size].accuracy for size in short_sizes(by_size)]),
        long=_mean([by_size[size].accuracy for size in long_sizes(by_size)]),
        by_size=by_size,
    )


def _overall(records: Sequence[Record]) -> Overall:
    modes = sorted({record.mode for record in records})
    by_mode = {mode: _counts([r for r in records if r.mode == mode]) for mode in modes}
    return Overall(
        **vars(_counts(records)),
        compliance=round(fmean(record.compliant for record in records), _DIGITS),
        mean_tokens=round(fmean(record.tokens for record in records), 1),
        by_mode=by_mode if len(modes) > 1 else {},
    )


def _counts(records: Sequence[Record]) -> Counts:
    n, correct = len(records), sum(record.correct for record in records)
    # In float32 as torchmetrics divides: in float64 the sixth digit would be another now and then,
    # and the results of one test would differ between versions of laid.
    accuracy = round(float(np.float32(correct) / np.float32(n)), _DIGITS)
    low, high = wilson_interval(correct, n)
    interval = (round(low, _DIGITS), round(high, _DIGITS))
    return Counts(n=n, correct=correct, accuracy=accuracy, interval=interval)


def _by_depth(records: Sequence[Record]) -> tuple[DepthBin, ...]:
    """Accuracy in equal bins of the needles' depth, first image first; 1.0 is in the last bin."""
    bins: list[list[Record]] = [[] for _ in range(DEPTH_BINS)]
    for record in records:
        if record.depth is not None:
            bins[min(int(record.depth * DEPTH_BINS), DEPTH_BINS - 1)].append(record)
    none = {"n": 0, "correct": 0, "accuracy": None, "interval": None}
    counts = [vars(_counts(inside)) if inside else none for inside in bins]
    ends = [(i / DEPTH_BINS, (i + 1) / DEPTH_BINS) for i in range(DEPTH_BINS)]
    found = zip(ends, counts, strict=True)
    return tuple(DepthBin(from_=low, to=high, **count) for (low, high), count in found)


def _mean(shares: Sequence[float]) -> float | None:
    return round(fmean(shares), _DIGITS) if shares else None


def _version() -> str:
    try:
        return metadata.version("laid")
    except metadata.PackageNotFoundError:  # run from a folder that was never installed
        return "unknown"
