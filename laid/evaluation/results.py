"""The results of one test: accuracy by haystack size and needle depth, each with n and interval.

A results file is `Results` as JSON (docs/evaluation.md lists its keys); tables and figures are made
from it alone.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import NormalDist
from typing import ClassVar

from laid.common.atomic_files import atomic_write_text
from laid.common.errors import UserError
from laid.common.json_codec import Json, from_json, to_json

Interval = tuple[float, float]
"""Lower and upper bound."""


def short_sizes(sizes: Iterable[int]) -> list[int]:
    """Those of a short window, 1 to 20 images (the paper's Table 1)."""
    return sorted(size for size in sizes if size <= 20)


def long_sizes(sizes: Iterable[int]) -> list[int]:
    """Those of a long window, 50 images and more (the paper's Table 1)."""
    return sorted(size for size in sizes if size >= 50)


WINDOWS = {"short": short_sizes, "long": long_sizes}
"""The two windows of the paper's Table 1."""


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


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Answers, at least one, those that are correct, and the share with its 95% interval."""

    n: int
    correct: int
    accuracy: float
    interval: Interval

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.n or self.n == 0:
            raise UserError(f"correct is {self.correct} of n {self.n}, expected 0 to n and n > 0")
        _require_shares("accuracy", self.accuracy)
        _require_shares("interval", *self.interval)


@dataclass(frozen=True, kw_only=True)
class Overall(Counts):
    """All answers of a test.

    Attributes:
        compliance: share of answers with a yes or no in them.
        mean_tokens: length of an input.
        by_mode: by kind of question; empty where there was only one.
    """

    compliance: float
    mean_tokens: float
    by_mode: dict[str, Counts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_shares("compliance", self.compliance)


@dataclass(frozen=True, kw_only=True)
class DepthBin:
    """The answers, if any, whose needles lie from one depth (0, the first image) to another (1)."""

    from_: float
    to: float
    n: int
    correct: int
    accuracy: float | None
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class SizeCell(Overall):
    """The answers at one haystack size; ``needle_depth`` from the first image to the last."""

    needle_depth: tuple[DepthBin, ...]


@dataclass(frozen=True)
class Summary:
    """A row of a table, a line of a figure: one model, or the training seeds of a method together.

    Attributes:
        name: what tables and figures call it.
        by_size: by haystack size, ascending.
        short, long: mean accuracy over `short_sizes` and `long_sizes`, each size counting alike;
            None without any.
    """

    name: str
    by_size: dict[int, SizeCell]
    short: float | None
    long: float | None


@dataclass(frozen=True)
class Training:
    """The training behind a checkpoint (`laid.checkpoints.runs.training_of`).

    Attributes:
        name: of the run.
        seed: None where none was set.
        run: the run's folder, relative to the results file.
        settings: those that decide what is learned.
    """

    name: str | None
    seed: int | None
    run: str
    settings: Json


_OF_ONE_SEED = ("path", "revision", "seed")


@dataclass(frozen=True)
class Tested:
    """The parts of an identity that results are grouped and paired by, by the identity's own keys;
    all else in it is compared and not looked into.

    Attributes:
        checkpoint: the checkpoint's ``id`` and ``step``; None for a base model.
        student: how the model is loaded.
        weights: fingerprint of a base model's weights.
        window: the window extension (``extension`` and its settings); None without one.
        entries: hash of what was asked and shown; None where the test did not say.
    """

    checkpoint: Json | None = None
    student: Json | None = None
    weights: str | None = None
    window: Json | None = None
    entries: str | None = None

    @classmethod
    def of(cls, identity: Json) -> "Tested":
        """Raises ``UserError`` where one of the parts has another type."""
        names = [field.name for field in fields(cls) if field.name in identity]
        return from_json(cls, {name: identity[name] for name in names}, "identity")


def shared_by_seeds(identity: Json) -> Json:
    """What of an identity is the same for all training seeds of one method."""
    shared = {k: v for k, v in identity.items() if k not in ("checkpoint", "weights")}
    if student := Tested.of(identity).student:
        shared["student"] = {k: v for k, v in student.items() if k not in _OF_ONE_SEED}
    return shared


@dataclass(frozen=True, kw_only=True)
class Results:
    """A results file; docs/evaluation.md says what each key means."""

    FORMAT: ClassVar = {"laid_results": 1}

    name: str
    identity: Json
    command: str
    seed: int | None
    laid_version: str
    created: str
    records_file: str
    training: Training | None = None
    overall: Overall
    short: float | None
    long: float | None
    by_size: dict[int, SizeCell]

    def __post_init__(self) -> None:
        if not self.by_size:
            raise UserError("by_size is empty, expected at least one haystack size")
        Tested.of(self.identity)

    @property
    def tested(self) -> Tested:
        return Tested.of(self.identity)

    @property
    def summary(self) -> Summary:
        return Summary(self.name, self.by_size, self.short, self.long)


def write_results(path: str | Path, results: Results) -> None:
    """Write results as indented JSON; the file is there whole or, on any failure, as it was."""
    atomic_write_text(path, json.dumps(to_json(results), indent=2, allow_nan=False) + "\n")


def read_results(path: str | Path) -> Results:
    """Read what `write_results` wrote.

    Raises:
        UserError: if there is no such file, or it isn't a results file of this format.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(
            f"can't read results from {path}: {error.strerror}; expected a results.json, which a "
            "test writes at its end"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} isn't JSON ({error}); expected a results.json") from error
    try:
        return from_json(Results, content)
    except UserError as error:
        raise UserError(
            f"{path} isn't a results file of this version of laid: {error}; give another file, or "
            "run the test again, which writes its results anew from its records"
        ) from error


def _require_shares(name: str, *shares: float) -> None:
    for share in shares:
        if not 0 <= share <= 1:
            raise UserError(f"{name} is {share}, expected 0 to 1")
