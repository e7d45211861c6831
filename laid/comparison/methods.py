"""Results that belong together: the training seeds of one method, and their answers.

Shape suffixes: S training seeds, E entries of one haystack size.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from laid.common.differences import differences
from laid.common.errors import UserError
from laid.common.json_codec import Json
from laid.evaluation.records import RESULTS, SOURCES, read_records
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
        return {s: fmean(of.by_size[s].accuracy for of in self.results) for s in self.sizes}


class _Result(NamedTuple):
    """One results file, and what decides which method it is a seed of."""

    file: Path
    results: Results

    @property
    def method(self) -> str:
        """Its name, without a seed and with a window extension."""
        training, window = self.results.training, self.results.tested.window
        if not (training and training.name):
            return _stem(self.results.name)
        return _stem(training.name) + (f"-{window.get('extension')}" if window else "")

    @property
    def seed(self) -> int | None:
        if self.results.training is not None:
            return self.results.training.seed
        return split_seed(self.results.name)[1]

    @property
    def facts(self) -> Json:
        """What two seeds of one method have in common."""
        training, checkpoint = self.results.training, self.results.tested.checkpoint
        return {
            "training": _in_effect(training.settings) if training else None,
            "step": checkpoint.get("step") if checkpoint else None,
            "test": shared_by_seeds(self.results.identity),
        }


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
    notes = []
    read: dict[Path, _Result] = {}
    for given in map(Path, paths):
        file = given / RESULTS if given.is_dir() else given
        sources = sorted(str(found.parent) for found in given.glob(f"{SOURCES}/*/{RESULTS}"))
        if sources and not file.exists():
            raise UserError(
                f"{given} has results of each source by itself: compare those of one source, "
                f"{' or '.join(sources)}"
            )
        if file.resolve() in read:
            notes.append(f"{given} was given twice and counts once")
        else:
            read[file.resolve()] = _Result(file, read_results(file))
    groups: dict[str, list[_Result]] = {}
    for result in read.values():
        # Results without a seed stand alone.
        key = str(result.file) if result.seed is None else json.dumps(result.facts, sort_keys=True)
        groups.setdefault(f"{result.method} {key}", []).append(result)
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
        files, results = zip(*part, strict=True)
        methods.append(Method(label, results, files, tuple(one.seed for one in part), answers))
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


def split_seed(name: str) -> tuple[str, int | None]:
    """``laid-seed2`` is seed 2 of ``laid``; None where the name says none."""
    found = _SEED.fullmatch(name)
    return (found["method"] + found["window"], int(found["seed"])) if found else (name, None)


def _in_effect(settings: Json) -> Json:
    """Without the loss terms of weight 0, which a run does not build: their other settings do
    nothing, and results of a laid that did not have such a term yet have none."""
    model = settings.get("model")
    if not isinstance(model, dict) or not isinstance(terms := model.get("objective"), dict):
        return settings
    built = {
        name: term
        for name, term in terms.items()
        if not isinstance(term, dict) or term.get("weight") != 0
    }
    return {**settings, "model": {**model, "objective": built}}


def _stem(name: str) -> str:
    return split_seed(name)[0]


def _labels(parts: Sequence[Sequence[_Result]]) -> list[str]:
    names = []
    for part in parts:
        stems = {of.results.name if len(part) == 1 else _stem(of.results.name) for of in part}
        names.append(stems.pop() if len(stems) == 1 else part[0].method)
    labels: dict[str, Path] = {}
    for part, name in zip(parts, names, strict=True):
        # Base models are all called "base": their folders' names differ.
        folders = ", ".join(of.file.resolve().parent.name for of in part)
        label = name if names.count(name) == 1 else folders
        if label in labels:
            raise UserError(
                f"{labels[label]} and {part[0].file} are both called {label!r}: compare results of "
                "one source at a time, give one of the folders another name, or test it anew with "
                "--results FOLDER"
            )
        labels[label] = part[0].file
    return list(labels)


def _not_grouped(parts: Sequence[Sequence[_Result]], labels: Sequence[str]) -> list[str]:
    """Notes about methods that have the same name and different settings."""
    notes = []
    first: dict[str, tuple[_Result, str]] = {}
    for (one, *_), label in zip(parts, labels, strict=True):
        if one.seed is None:
            continue
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
        if [*map(list, row.values())] != [*map(list, rows[0].values())]:
            reason = f"{file} and {part[0].file} did not answer the same entries"
            return None, f"{reason}: finish the tests"
    ids = {size: tuple(of) for size, of in rows[0].items()}
    correct_SE = {s: np.array([[*row[s].values()] for row in rows], dtype=bool) for s in ids}
    entries = part[0].results.tested.entries
    # A test that does not say what was asked is paired with no other.
    asked = f"entries {entries}" if entries else f"file {part[0].file.resolve()}"
    return Answers(asked, ids, correct_SE), None
