"""From records to results."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from statistics import fmean

from laid import __version__
from laid.common.errors import UserError
from laid.common.json_codec import Json, plain
from laid.evaluation.records import RECORDS, Record
from laid.evaluation.results import (
    DEPTHS,
    Counts,
    DepthBin,
    Entries,
    Overall,
    Results,
    SizeCell,
    Training,
    long_sizes,
    mean_accuracy,
    short_sizes,
)
from laid.evaluation.wilson import DIGITS, accuracy_of


def summarise(
    records: Iterable[Record],
    *,
    name: str,
    identity: Json,
    command: str,
    seed: int | None,
    available: Mapping[int, int] | None = None,
    training: Training | None = None,
) -> Results:
    """The results of one test.

    Args:
        name: what tables and figures call the model.
        identity: what was tested, as in the records file.
        seed: the seed that the entries were drawn with, None if nothing was drawn.
        available: how many entries of each haystack size the source has; None: those of the
            records and no others.
        training: of a checkpoint; None for a model that was not trained by laid.

    Returns:
        Equal to what `read_results` gives after `write_results`; shares have six digits.

    Raises:
        UserError: if there are no records, an entry occurs twice, there are several rules of
            scoring, more of a size than `available`, or `identity` or the settings of `training`
            aren't JSON.
    """
    records = list(records)
    if not records:
        raise UserError("no records: there is nothing to summarise, answer at least one entry")
    twice = [entry for entry, times in Counter(r.id for r in records).items() if times > 1]
    if twice:
        found = f"{len(twice)} entries occur twice, {twice[0]!r} for one"
        raise UserError(f"{found}; give each entry's record once")
    if len(rules := {record.scoring for record in records}) > 1:
        raise UserError(f"records are scored by {sorted(rules)}, expected one rule")
    groups: dict[int, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.size):
        groups.setdefault(record.size, []).append(record)
    if available is None:
        available = {size: len(here) for size, here in groups.items()}
    by_size = {
        size: SizeCell(
            **vars(_overall(here)), available=available.get(size, 0), needle_depth=_by_depth(here)
        )
        for size, here in groups.items()
    }
    return Results(
        name=name,
        identity=plain(identity, "the identity of a test"),
        command=command,
        seed=seed,
        laid_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        records_file=RECORDS,
        scoring=rules.pop(),
        training=training and replace(training, settings=plain(training.settings, "settings")),
        entries=Entries(len(records), sum(available.values())),
        overall=_overall(records),
        short=mean_accuracy(by_size, short_sizes(by_size)),
        long=mean_accuracy(by_size, long_sizes(by_size)),
        by_size=by_size,
    )


def _overall(records: Sequence[Record]) -> Overall:
    modes = sorted({record.mode for record in records})
    by_mode = {mode: Counts(**_counts([r for r in records if r.mode == mode])) for mode in modes}
    return Overall(
        **_counts(records),
        compliance=round(fmean(record.compliant for record in records), DIGITS),
        truncated=round(fmean(record.truncated for record in records), DIGITS),
        mean_tokens=round(fmean(record.tokens for record in records), 1),
        by_mode=by_mode if len(modes) > 1 else {},
    )


def _counts(records: Sequence[Record]) -> Json:
    n, correct = len(records), sum(record.correct for record in records)
    accuracy, interval = accuracy_of(correct, n) if n else (None, None)
    return {"n": n, "correct": correct, "accuracy": accuracy, "interval": interval}


def _by_depth(records: Sequence[Record]) -> tuple[DepthBin, ...]:
    """A depth on the border of two bins belongs to the upper one, 1.0 to the last."""
    last = len(DEPTHS) - 1
    bins: list[list[Record]] = [[] for _ in DEPTHS]
    for record in records:
        if record.depth is not None:
            bins[min(int(record.depth * len(DEPTHS)), last)].append(record)
    found = zip(DEPTHS, bins, strict=True)
    return tuple(DepthBin(from_=low, to=high, **_counts(of)) for (low, high), of in found)
