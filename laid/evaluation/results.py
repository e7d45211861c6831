"""From records to results: accuracy with its n and interval, by haystack size and needle depth.

The results of one test are a JSON object (docs/evaluation.md lists its keys); tables and figures
are made from it alone.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePath
from statistics import NormalDist, fmean
from typing import Any

import torch
from torchmetrics.classification import BinaryAccuracy

from laid.common.atomic_files import replacing
from laid.common.errors import UserError
from laid.evaluation.records import Record

FORMAT = 1
DEPTH_BINS = 5
# The paper's Table 1 calls haystacks of 1 to 20 images a short window, of 50 to 150 a long one.
SHORT_UP_TO = 20
LONG_FROM = 50

_KEYS = frozenset(
    {"laid_results", "name", "identity", "command", "seed", "laid_version", "created"}
    | {"records_file", "overall", "short", "long", "by_size"}
)
_DIGITS = 6  # BinaryAccuracy counts exactly but divides in float32


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson, JASA 22, 1927), without correction.

    Unlike the normal one it stays inside [0, 1] and has a width at 0 and n of n, and it covers
    well at the n of 100 that a haystack size usually has.

    Args:
        correct: successes.
        n: trials.
        confidence: the share of such intervals that hold the true proportion, between 0 and 1.

    Returns:
        Lower and upper bound; correct / n lies between them.

    Raises:
        UserError: if n is below 1, `correct` isn't within 0 to n, or `confidence` isn't
            between 0 and 1.
    """
    if n < 1 or not 0 <= correct <= n:
        raise UserError(
            f"{correct} correct of {n}: expected at least one answer and from 0 to n correct"
        )
    if not 0 < confidence < 1:
        raise UserError(f"confidence is {confidence}, expected a share such as 0.95")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    # At 0 and n of n a bound equals the share exactly; rounding must not push it past.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def summarise(
    records: Iterable[Record],
    *,
    name: str,
    identity: dict[str, Any],
    command: str,
    seed: int | None,
    records_file: str = "records.jsonl",
    training: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The results of one test.

    Args:
        records: the answered entries, in any order.
        name: what tables and figures call the model.
        identity: what was tested, as in the records file.
        command: the command that made the records.
        seed: the seed that its entries were drawn with, None if nothing was drawn.
        records_file: where the records lie, relative to the folder of the results file: paired
            tests need them entry by entry.
        training: what `training_of` (`laid.checkpoints.runs`) says of a checkpoint's run, None for
            a model that was not trained by laid.

    Returns:
        A JSON object, equal to what `read_results` gives after `write_results`. Shares (accuracy,
        compliance, intervals) lie within 0 to 1; `by_size` has the sizes as strings, ascending.
        `short` and `long` are means over haystack sizes, each size counting alike, and None where
        no size belongs to them; `overall` counts every entry alike.

    Raises:
        UserError: if there are no records, an entry occurs twice, `records_file` is absolute, or
            `identity` or `training` isn't JSON.
    """
    records = list(records)
    if not records:
        raise UserError("no records: there is nothing to summarise, answer at least one entry")
    twice = [entry for entry, times in Counter(r.id for r in records).items() if times > 1]
    if twice:
        raise UserError(
            f"{len(twice)} entries occur twice, {twice[0]!r} for one; give each entry's record once"
        )
    if PurePath(records_file).is_absolute():
        raise UserError(
            f"records_file is {records_file}, expected a path relative to the results file, so "
            "that the two can be moved together"
        )
    sizes = sorted({record.size for record in records})
    by_size = {size: _describe([r for r in records if r.size == size]) for size in sizes}
    results = {
        "laid_results": FORMAT,
        "name": name,
        "identity": identity,
        "command": command,
        "seed": seed,
        "laid_version": _version(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "records_file": records_file,
        "training": training,
        "overall": _describe(records, depth=False),
        "short": _mean([by_size[s]["accuracy"] for s in sizes if s <= SHORT_UP_TO]),
        "long": _mean([by_size[s]["accuracy"] for s in sizes if s >= LONG_FROM]),
        "by_size": by_size,
    }
    try:
        # Through JSON and back: what is returned is what a reader of the file gets.
        plain: dict[str, Any] = json.loads(json.dumps(results, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the identity of a test and its training must be JSON ({error}); give paths and "
            "versions as str"
        ) from error
    return plain


def write_results(path: str | Path, results: dict[str, Any]) -> None:
    """Write results as indented JSON; the file is there whole or, on any failure, as it was."""
    with replacing(path) as file:
        file.write(json.dumps(results, indent=2, allow_nan=False).encode() + b"\n")


def read_results(path: str | Path) -> dict[str, Any]:
    """Read what `write_results` wrote.

    Raises:
        UserError: if there is no such file, or it isn't a results file of this format.
    """
    try:
        results = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(
            f"can't read results from {path}: {error.strerror}; expected a results.json, which a "
            "test writes at its end"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} isn't JSON ({error}); expected a results.json") from error
    if not isinstance(results, dict) or results.get("laid_results") != FORMAT:
        raise UserError(
            f'{path} isn\'t a results file: expected a JSON object with "laid_results": {FORMAT}'
        )
    missing = _KEYS - results.keys()
    if missing:
        raise UserError(f"{path} lacks {', '.join(sorted(missing))}; summarise its records again")
    for key, fits in _FORMS.items():
        if not fits(results.get(key)):
            raise UserError(
                f"{path}: {key} is {str(results.get(key))[:60]!r}, which is not what a test "
                "writes there; run the test again, it sums its records up anew"
            )
    for size, cell in results["by_size"].items():
        if not (size.isdigit() and isinstance(cell, dict) and _is_cell(cell)):
            raise UserError(
                f"{path}: by_size {size!r} is not the summary of a haystack size; run the test "
                "again, it sums its records up anew"
            )
    return results


def _is_cell(cell: dict[str, Any]) -> bool:
    n, correct, interval = cell.get("n"), cell.get("correct"), cell.get("interval")
    return (
        isinstance(n, int)
        and isinstance(correct, int)
        and 0 <= correct <= n
        and n > 0
        and all(_is_share(cell.get(key)) for key in ("accuracy", "compliance"))
        and isinstance(interval, list)
        and len(interval) == 2
        and all(_is_share(bound) for bound in interval)
        and isinstance(cell.get("mean_tokens"), int | float)
        and isinstance(cell.get("needle_depth"), list)
    )


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _is_training(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, dict) and isinstance(value.get("seed", ""), int | None)


_FORMS: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str),
    "records_file": lambda value: isinstance(value, str),
    "identity": lambda value: (
        isinstance(value, dict) and isinstance(value.get("checkpoint"), dict | None)
    ),
    "training": _is_training,
    "by_size": lambda value: isinstance(value, dict) and bool(value),
}
"""What has a form that others rely on."""


def _describe(records: Sequence[Record], *, depth: bool = True) -> dict[str, Any]:
    """Everything we say about a group of records, by mode too where there are several."""
    described = {
        **_accuracy(records),
        "compliance": round(fmean(record.compliant for record in records), _DIGITS),
        "mean_tokens": round(fmean(record.tokens for record in records), 1),
    }
    if depth:
        described["needle_depth"] = _by_depth(records)
    modes = sorted({record.mode for record in records})
    if len(modes) > 1:
        described["by_mode"] = {
            mode: _accuracy([record for record in records if record.mode == mode]) for mode in modes
        }
    return described


def _accuracy(records: Sequence[Record]) -> dict[str, Any]:
    """n, correct, accuracy and its interval; the latter two None for no records."""
    n, correct = len(records), sum(record.correct for record in records)
    if n == 0:
        return {"n": 0, "correct": 0, "accuracy": None, "interval": None}
    # An answer is right or wrong, and should be right: the target is 1 throughout. A comparison
    # of "yes" with "no" could not say what an answer with neither word is.
    right = torch.tensor([record.correct for record in records], dtype=torch.long)
    accuracy = BinaryAccuracy()(right, torch.ones_like(right)).item()
    interval = [round(bound, _DIGITS) for bound in wilson_interval(correct, n)]
    return {"n": n, "correct": correct, "accuracy": round(accuracy, _DIGITS), "interval": interval}


def _by_depth(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Accuracy in equal bins of the needles' depth, first image first; 1.0 is in the last bin."""
    bins: list[list[Record]] = [[] for _ in range(DEPTH_BINS)]
    for record in records:
        if record.depth is not None:
            bins[min(int(record.depth * DEPTH_BINS), DEPTH_BINS - 1)].append(record)
    return [
        {"from": i / DEPTH_BINS, "to": (i + 1) / DEPTH_BINS, **_accuracy(inside)}
        for i, inside in enumerate(bins)
    ]


def _mean(shares: Sequence[float]) -> float | None:
    return round(fmean(shares), _DIGITS) if shares else None


def _version() -> str:
    try:
        return metadata.version("laid")
    except metadata.PackageNotFoundError:  # run from a folder that was never installed
        return "unknown"
