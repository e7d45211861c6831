"""The results of one test: accuracy by haystack size and needle depth, each with n and interval.

A results file is `Results` as JSON (docs/evaluation.md lists its keys); tables and figures are made
from it alone.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import inf
from pathlib import Path, PurePath
from statistics import fmean
from typing import Any, ClassVar

from laid.common.atomic_files import atomic_write_text
from laid.common.errors import UserError
from laid.common.json_codec import Json, from_json, to_json
from laid.common.json_files import read_json
from laid.evaluation.wilson import DIGITS, Interval, accuracy_of

DEPTHS = [(0.0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.0)]
"""Where the bins of needle depth begin and end."""


def short_sizes(sizes: Iterable[int]) -> list[int]:
    """Those of a short window, 1 to 20 images (the paper's Table 1)."""
    return sorted(size for size in sizes if size <= 20)


def long_sizes(sizes: Iterable[int]) -> list[int]:
    """Those of a long window, 50 images and more (the paper's Table 1)."""
    return sorted(size for size in sizes if size >= 50)


WINDOWS = {"short": short_sizes, "long": long_sizes}
"""The two windows of the paper's Table 1."""


def mean_accuracy(by_size: Mapping[int, "SizeCell"], sizes: Sequence[int]) -> float | None:
    """Over some sizes, each counting alike; None without any."""
    return round(fmean(by_size[size].accuracy for size in sizes), DIGITS) if sizes else None


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Answers, at least one, those that are correct, and the share with its 95% interval."""

    n: int
    correct: int
    accuracy: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Overall(Counts):
    """All answers of a test.

    Attributes:
        compliance: share of answers with a yes or no in them.
        truncated: share of answers that were cut at ``max_new_tokens``.
        mean_tokens: length of an input.
        by_mode: by kind of question; empty where there was only one.
    """

    compliance: float
    truncated: float
    mean_tokens: float
    by_mode: dict[str, Counts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, most in (("compliance", 1.0), ("truncated", 1.0), ("mean_tokens", inf)):
            if not 0 <= (found := getattr(self, name)) <= most:
                raise UserError(f"{name} is {found}, expected 0 to {most}")


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
    """The answers at one haystack size.

    Attributes:
        available: entries of this size that the source has, asked or not.
        needle_depth: from the first image to the last.
    """

    available: int
    needle_depth: tuple[DepthBin, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.available < self.n:
            raise UserError(f"available is {self.available}, expected {self.n} or more, the n")


@dataclass(frozen=True)
class Entries:
    """How many entries a test asked, and how many its source has."""

    asked: int
    available: int

    @property
    def limited(self) -> str:
        """What tells results of a part of the entries from those of all; "" of all."""
        return f"{self.asked} of {self.available} entries" if self.asked < self.available else ""


def titled(name: str, *facts: str) -> str:
    """A name with what must be known of it, in brackets."""
    known = ", ".join(filter(None, facts))
    return f"{name} ({known})" if known else name


@dataclass(frozen=True)
class Summary:
    """A row of a table, a line of a figure: one model, or the training seeds of a method.

    Attributes:
        name: what tables and figures call it.
        by_size: by haystack size, ascending.
        short, long: as `mean_accuracy` over `short_sizes` and `long_sizes`.
        scoring: the rule that answers were scored by.
    """

    name: str
    by_size: dict[int, SizeCell]
    short: float | None
    long: float | None
    scoring: str = "yes-no"


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
    """The parts of an identity that results are grouped and paired by, under its own keys.

    Attributes:
        checkpoint: its ``id`` and ``step``; None for a base model.
        student: how the model is loaded.
        weights: fingerprint of a base model's weights.
        window: the window extension (``extension`` and its settings); None without one.
        entries: hash of what was asked and shown; None where it is not known.
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
    """A results file; docs/evaluation.md says what each key means.

    Raises ``UserError`` where numbers contradict each other, or ``records_file`` is absolute.
    """

    FORMAT: ClassVar = {"laid_results": 2}

    name: str
    identity: Json
    command: str
    seed: int | None
    laid_version: str
    created: str
    records_file: str
    scoring: str = "yes-no"
    training: Training | None = None
    entries: Entries
    overall: Overall
    short: float | None
    long: float | None
    by_size: dict[int, SizeCell]

    def __post_init__(self) -> None:
        if not self.by_size or min(self.by_size) < 0:
            raise UserError("by_size: expected at least one haystack size, 0 images or more")
        if PurePath(self.records_file).is_absolute():
            raise UserError(
                f"records_file is {self.records_file}, expected a path relative to the results "
                "file, so that the two can be moved together"
            )
        Tested.of(self.identity)
        for key, found, expected in _derived(self):
            if found != expected:
                raise UserError(f"{key} is {found}, expected {expected}")

    @property
    def tested(self) -> Tested:
        return Tested.of(self.identity)

    @property
    def summary(self) -> Summary:
        name = titled(self.name, self.entries.limited)
        return Summary(name, self.by_size, self.short, self.long, self.scoring)


def _derived(results: Results) -> Iterator[tuple[str, Any, Any]]:
    """What follows from other numbers of the file: its key, what is there, what should be."""
    sizes = results.by_size
    whole = {"overall": results.overall, **{f"by_size.{s}": cell for s, cell in sizes.items()}}
    parts: dict[str, Counts | DepthBin] = {**whole}
    for at, cell in whole.items():
        parts |= {f"{at}.by_mode.{mode}": of for mode, of in cell.by_mode.items()}
        if isinstance(cell, SizeCell):
            parts |= {f"{at}.needle_depth[{i}]": of for i, of in enumerate(cell.needle_depth)}
    for at, of in parts.items():
        if not 0 <= of.correct <= of.n:
            yield f"{at}.correct", of.correct, f"0 to n, {of.n}"
        accuracy, interval = accuracy_of(of.correct, of.n) if of.n else (None, None)
        yield f"{at}.accuracy", of.accuracy, accuracy
        yield f"{at}.interval", of.interval, interval
    for at, cell in whole.items():
        if cell.by_mode:
            yield f"{at}.by_mode in all", _total(cell.by_mode.values()), _total([cell])
    for size, cell in sizes.items():
        at, bins = f"by_size.{size}.needle_depth", cell.needle_depth
        yield at, [(of.from_, of.to) for of in bins], DEPTHS
        if any(of.n for of in bins):  # no depth is known of one image, and of conversations
            yield f"{at} in all", _total(bins), _total([cell] if size > 1 else [])
    yield "by_size in all", _total(sizes.values()), _total([results.overall])
    yield "entries.asked", results.entries.asked, results.overall.n
    if results.entries.available < (least := sum(cell.available for cell in sizes.values())):
        yield "entries.available", results.entries.available, f"{least} or more"
    yield "short", results.short, mean_accuracy(sizes, short_sizes(sizes))
    yield "long", results.long, mean_accuracy(sizes, long_sizes(sizes))


def _total(parts: Iterable[Counts | DepthBin]) -> str:
    n, correct = (sum(of) for of in zip((0, 0), *((p.n, p.correct) for p in parts), strict=True))
    return f"{correct} correct of {n}"


def write_results(path: str | Path, results: Results) -> None:
    """Write results as indented JSON; the file is there whole or, on any failure, as it was."""
    atomic_write_text(path, json.dumps(to_json(results), indent=2, allow_nan=False) + "\n")


def read_results(path: str | Path) -> Results:
    """Read what `write_results` wrote.

    Raises:
        UserError: if there is no such file, or it isn't a results file of this format.
    """
    try:
        content = read_json(path)
    except UserError as error:
        raise UserError(f"{error} Expected a results.json, written by laid test") from error
    try:
        return from_json(Results, content)
    except UserError as error:
        raise UserError(
            f"{path} isn't a results file of this version of laid: {error}; give another file, or "
            "run the test again, which writes its results anew from its records"
        ) from error
