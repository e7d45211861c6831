"""Results that belong together: the training seeds of one method, and their answers.

Shape suffixes: S training seeds, E entries of one haystack size.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from laid.common.differences import differences
from laid.common.errors import UserError
from laid.common.json_codec import Json
from laid.evaluation.records import read_records
from laid.evaluation.results import Results, read_results, shared_by_seeds, titled

# A window extension's name comes after a run's.
_SEED = re.compile(r"(?P<method>.+?)-seed(?P<seed>\d+)(?P<window>(-yarn|-self-extend)?)")


class Answers(NamedTuple):
    """Which entries a method got right.

    Attributes:
        asked: says what was asked: the same for two methods that were asked the same entries.
        ids: by haystack size, the entries' names, sorted.
        correct_SE: by haystack size, one row a training seed, one column an entry, in that order.
    """

    asked: str
    ids: dict[int, tuple[str, ...]]
    correct_SE: dict[int, NDArray[np.bool_]]


@dataclass(frozen=True)
class Method:
    """One row of a report.

    Attributes:
        label: its name, unlike any other's.
        results: one a training seed, by ascending seed; files: where they were read.
        seeds: the training seeds; None where it is not known.
        answers: None where there are no records of these results.
    """

    label: str
    results: tuple[Results, ...]
    files: tuple[Path, ...]
    seeds: tuple[int | None, ...]
    answers: Answers | None

    @property
    def sizes(self) -> list[int]:
        """The haystack sizes that every seed was tested at, ascending."""
        return sorted(set.intersection(*(set(result.by_size) for result in self.results)))

    @property
    def title(self) -> str:
        """The label, with the number of seeds where there are several, and of entries where not
        all were asked."""
        seeds = f"{len(self.seeds)} seeds" if len(self.seeds) > 1 else ""
        return titled(self.label, seeds, self.results[0].entries.limited)

    def shared_sizes(self, other: "Method") -> list[int]:
        """The haystack sizes that both were tested at, ascending."""
        return sorted({*self.sizes} & {*other.sizes})

    def accuracy(self) -> dict[int, float]:
        """By haystack size, the mean over seeds."""
        by_size = [result.by_size for result in self.results]
        return {s: float(np.mean([cells[s].accuracy for cells in by_size])) for s in self.sizes}


class _Result(NamedTuple):
    """One results file, and what decides which method it is a seed of."""

    file: Path
    results: Results

    @property
    def method(self) -> str:
        run = self.results.training and self.results.training.name
        if not run:
            return _stem(self.results.name)
        window = self.results.tested.window
        return _stem(run) + (f"-{window.get('extension')}" if window else "")

    @property
    def seed(self) -> int | None:
        if self.results.training is not None:
            return self.results.training.seed
        found = _SEED.fullmatch(self.results.name)
        return int(found["seed"]) if found else None

    @property
    def facts(self) -> Json:
        """What two seeds of one method have in common."""
        training, checkpoint = self.results.training, self.results.tested.checkpoint
        return {
            "training": training.settings if training else None,
            "step": checkpoint.get("step") if checkpoint else None,
            "test": shared_by_seeds(self.results.identity),
        }

    @property
    def key(self) -> str | None:
        """Equal for seeds of one method; None for results without a seed, which stand alone."""
        if self.seed is None:
            return None
        return json.dumps([self.method, self.facts], sort_keys=True)


def read_methods(paths: Sequence[str | Path]) -> tuple[list[Method], list[str]]:
    """Read results and group the training seeds of each method.

    Two results are seeds of one method when they have the same name of a method, the same
    training settings, step and test settings, and different training seeds (docs/evaluation.md).
    Methods are in the order of their first results.

    Args:
        paths: results files, or folders that hold a ``results.json``.

    Returns:
        The methods, and notes: what a reader of the report should know.

    Raises:
        UserError: a file is missing, broken or not a results file; one seed of a method was given
            twice; several seeds have no records; two methods have the same name and folder name.
    """
    files, notes = _files(paths)
    groups: dict[str, list[_Result]] = {}
    for number, file in enumerate(files):
        result = _Result(file, read_results(file))
        groups.setdefault(result.key or str(number), []).append(result)
    parts = [sorted(group, key=lambda one: one.seed or 0) for group in groups.values()]
    labels = _labels(parts)
    notes += _not_grouped(parts, labels)
    methods = []
    for label, part in zip(labels, parts, strict=True):
        for one, other in pairwise(part):
            if one.seed == other.seed:
                raise UserError(
                    f"{one.file} and {other.file} are both seed {one.seed} of {label!r}, with the "
                    "same training and test settings: leave one of them out"
                )
        answers, reason = _answers(part)
        if reason and len(part) > 1:
            what = f"the {len(part)} seeds of {label!r}"
            raise UserError(f"{what} are pooled entry by entry, but {reason}")
        if limited := part[0].results.entries.limited:
            notes.append(f"{label} was asked {limited}")
        if reason:
            notes.append(f"{label} has no intervals of gains and windows and no tests: {reason}")
        of_seeds, results = zip(*part, strict=True)
        seeds = tuple(one.seed for one in part)
        methods.append(Method(label, results, of_seeds, seeds, answers))
    return methods, notes


def find_method(methods: Sequence[Method], label: str, option: str) -> Method:
    """The method of that name.

    Raises:
        UserError: there is none; the message lists those that there are.
    """
    for method in methods:
        if method.label == label:
            return method
    names = ", ".join(repr(method.label) for method in methods)
    raise UserError(f"{option} {label!r}: there are no results of that name; there are {names}")


def not_paired(one: Method, other: Method, size: int) -> str | None:
    """Why two methods can't be tested entry by entry at a size; None if they can."""
    if one.answers is None or other.answers is None:
        return "no records"
    if one.answers.asked != other.answers.asked:
        return "they were asked different entries"
    if size not in one.answers.ids or size not in other.answers.ids:
        return "not tested at this size"
    if one.answers.ids[size] != other.answers.ids[size]:
        return "they did not answer the same entries"
    return None


def _files(paths: Sequence[str | Path]) -> tuple[list[Path], list[str]]:
    files: dict[Path, Path] = {}
    notes = []
    for given in paths:
        path = Path(given)
        file = path / "results.json" if path.is_dir() else path
        if file.resolve() in files:
            notes.append(f"{given} was given twice and counts once")
        files.setdefault(file.resolve(), file)
    return list(files.values()), notes


def _stem(name: str) -> str:
    found = _SEED.fullmatch(name)
    return found["method"] + found["window"] if found else name


def _labels(parts: Sequence[Sequence[_Result]]) -> list[str]:
    names = []
    for part in parts:
        stems = {_stem(one.results.name) for one in part}
        named = stems.pop() if len(stems) == 1 else part[0].method
        names.append(part[0].results.name if len(part) == 1 else named)
    # Base models are all called "base": their folders' names differ.
    labels = [
        name if names.count(name) == 1 else ", ".join(of.file.resolve().parent.name for of in part)
        for part, name in zip(parts, names, strict=True)
    ]
    for label in labels:
        same = [str(part[0].file) for part, own in zip(parts, labels, strict=True) if own == label]
        if len(same) > 1:
            files = " and ".join(same)
            raise UserError(
                f"{files} are both called {label!r}: give one of the folders another name, or "
                "test it anew with --results FOLDER"
            )
    return labels


def _not_grouped(parts: Sequence[Sequence[_Result]], labels: Sequence[str]) -> list[str]:
    """Notes about methods that have the same name and different settings."""
    notes = []
    first: dict[str, tuple[_Result, str]] = {}
    firsts = [(part[0], label) for part, label in zip(parts, labels, strict=True)]
    for one, label in [(one, label) for one, label in firsts if one.seed is not None]:
        before, its_label = first.setdefault(one.method, (one, label))
        if before is not one:
            changed = ", ".join(differences(before.facts, one.facts))
            notes.append(
                f"{its_label} and {label} are both of method {one.method!r}, but differ in "
                f"{changed}: shown as two methods"
            )
    return notes


def _answers(part: Sequence[_Result]) -> tuple[Answers | None, str | None]:
    """The answers of all seeds, or why there are none."""
    rows: list[dict[int, dict[str, bool]]] = []
    for file, results in part:
        path = file.parent / results.records_file
        if not path.exists():
            return None, f"there is no {path}"
        identity, records, _ = read_records(path)
        if identity != results.identity:
            return None, f"{path} holds records of another test than {file}"
        row: dict[int, dict[str, bool]] = {}
        for record in sorted(records.values(), key=lambda record: (record.size, record.id)):
            row.setdefault(record.size, {})[record.id] = record.correct
        counted = {size: (len(of), sum(of.values())) for size, of in row.items()}
        if counted != {size: (cell.n, cell.correct) for size, cell in results.by_size.items()}:
            return None, f"{file} is not the summary of {path}: run the test again, it sums up anew"
        rows.append(row)
    ids = {size: tuple(of) for size, of in rows[0].items()}
    for one, row in zip(part, rows, strict=True):
        if {size: tuple(of) for size, of in row.items()} != ids:
            reason = f"{one.file} and {part[0].file} did not answer the same entries"
            return None, f"{reason}: finish the tests"
    correct_SE = {s: np.array([[*row[s].values()] for row in rows], dtype=bool) for s in ids}
    entries = part[0].results.tested.entries
    # A test that does not say what was asked is paired with no other.
    asked = f"entries {entries}" if entries else f"file {part[0].file.resolve()}"
    return Answers(asked, ids, correct_SE), None
