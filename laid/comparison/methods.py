"""Results that belong together: the training seeds of one method, and their answers.

Shape suffixes: S training seeds, E entries of one haystack size.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from laid.common.errors import UserError
from laid.evaluation.records import differences, read_records
from laid.evaluation.results import read_results

# A window extension's name comes after a run's.
_SEED = re.compile(r"(?P<method>.+?)-seed(?P<seed>\d+)(?P<window>(-yarn|-self-extend)?)")
# Of the tested student, what differs between two seeds of one method.
_OF_ONE_SEED = ("path", "revision", "seed")


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
        results: what `read_results` gives, one a training seed, by ascending seed.
        files: where they were read.
        seeds: the training seeds; None where it is not known.
        answers: None where there are no records of these results.
    """

    label: str
    results: tuple[dict[str, Any], ...]
    files: tuple[Path, ...]
    seeds: tuple[int | None, ...]
    answers: Answers | None

    @property
    def sizes(self) -> list[int]:
        """The haystack sizes that every seed was tested at, ascending."""
        return sorted(set.intersection(*({int(s) for s in r["by_size"]} for r in self.results)))

    @property
    def title(self) -> str:
        """The label, with the number of seeds where there are several."""
        return self.label if len(self.seeds) == 1 else f"{self.label} ({len(self.seeds)} seeds)"

    def accuracy(self) -> dict[int, float]:
        """By haystack size, the mean over seeds."""
        return {
            s: _mean(r["by_size"][str(s)]["accuracy"] for r in self.results) for s in self.sizes
        }


def gather(paths: Sequence[str | Path]) -> tuple[list[Method], list[str]]:
    """Read results and put the seeds of each method together.

    Two results are seeds of one method when they have the same name of a method, the same
    training settings, step and test settings, and different training seeds (docs/evaluation.md).
    A method stands where its first result was given.

    Args:
        paths: results files, or folders that hold a ``results.json``.

    Returns:
        The methods, and notes: what a reader of the report should know.

    Raises:
        UserError: a file is missing, broken or not a results file; one seed of a method was given
            twice; several seeds have no records; two methods can't be told apart by name.
    """
    files, notes = _files(paths)
    read = [(file, read_results(file)) for file in files]
    groups: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for number, (file, result) in enumerate(read):
        groups.setdefault(_key(result) or str(number), []).append((file, result))
    parts = [sorted(group, key=lambda part: _seed(part[1]) or 0) for group in groups.values()]
    labels = _labels(parts)
    notes += _apart(parts, labels)
    methods = []
    for label, part in zip(labels, parts, strict=True):
        seeds = [_seed(result) for _, result in part]
        for index, seed in enumerate(seeds):
            if len(seeds) > 1 and seed in seeds[:index]:
                first, again = part[seeds.index(seed)][0], part[index][0]
                raise UserError(
                    f"{first} and {again} are both seed {seed} of {label!r}, trained and tested "
                    "alike: leave one of them out"
                )
        answers, reason = _answers(part)
        if reason and len(part) > 1:
            raise UserError(
                f"the {len(part)} seeds of {label!r} are pooled entry by entry, but {reason}"
            )
        if reason:
            notes.append(f"{label} has no intervals of gains and windows and no tests: {reason}")
        results, where = tuple(r for _, r in part), tuple(file for file, _ in part)
        methods.append(Method(label, results, where, tuple(seeds), answers))
    return methods, notes


def find(methods: Sequence[Method], label: str, option: str) -> Method:
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
        return "asked other entries"
    if size not in one.answers.ids or size not in other.answers.ids:
        return "not tested at this size"
    if one.answers.ids[size] != other.answers.ids[size]:
        return "not all of the same entries were answered"
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


def _method(result: dict[str, Any]) -> str:
    run = (result.get("training") or {}).get("name")
    if not run:
        return _stem(result["name"])
    window = result["identity"].get("window")
    return _stem(run) + (f"-{window['extension']}" if window else "")


def _seed(result: dict[str, Any]) -> int | None:
    training = result.get("training")
    if training is not None:
        seed = training["seed"]
        return None if seed is None else int(seed)
    found = _SEED.fullmatch(result["name"])
    return int(found["seed"]) if found else None


def _facts(result: dict[str, Any]) -> dict[str, Any]:
    """What two seeds of one method have in common."""
    identity = result["identity"]
    tested = {k: v for k, v in identity.items() if k not in ("checkpoint", "weights")}
    if isinstance(tested.get("student"), dict):
        student = tested["student"]
        tested["student"] = {k: v for k, v in student.items() if k not in _OF_ONE_SEED}
    training = result.get("training") or {}
    return {
        "training": training.get("settings"),
        "step": (identity.get("checkpoint") or {}).get("step"),
        "test": tested,
    }


def _key(result: dict[str, Any]) -> str | None:
    """Equal for seeds of one method; None for results without a seed, which stand alone."""
    if _seed(result) is None:
        return None
    return json.dumps([_method(result), _facts(result)], sort_keys=True)


def _labels(parts: Sequence[Sequence[tuple[Path, dict[str, Any]]]]) -> list[str]:
    labels = []
    for part in parts:
        stems = {_stem(result["name"]) for _, result in part}
        named = stems.pop() if len(stems) == 1 else _method(part[0][1])
        labels.append(part[0][1]["name"] if len(part) == 1 else named)
    # Base models are all called "base": their folders tell them apart.
    twice = {label for label in labels if labels.count(label) > 1}
    for index, part in enumerate(parts):
        if labels[index] in twice:
            labels[index] = ", ".join(file.resolve().parent.name for file, _ in part)
    for label in labels:
        if labels.count(label) > 1:
            files = [
                str(part[0][0]) for part, own in zip(parts, labels, strict=True) if own == label
            ]
            raise UserError(
                f"{' and '.join(files)} are both called {label!r}: give one of the folders "
                "another name, or test it anew with --results FOLDER"
            )
    return labels


def _apart(
    parts: Sequence[Sequence[tuple[Path, dict[str, Any]]]], labels: Sequence[str]
) -> list[str]:
    """Notes about methods that bear one name and were not put together."""
    notes = []
    first: dict[str, int] = {}
    for index, part in enumerate(parts):
        result = part[0][1]
        if _seed(result) is None:
            continue
        before = first.setdefault(_method(result), index)
        if before != index:
            changed = ", ".join(differences(_facts(parts[before][0][1]), _facts(result)))
            notes.append(
                f"{labels[before]} and {labels[index]} are both of method {_method(result)!r}, but "
                f"differ in {changed}: shown apart"
            )
    return notes


def _answers(
    part: Sequence[tuple[Path, dict[str, Any]]],
) -> tuple[Answers | None, str | None]:
    """The answers of all seeds, or why there are none."""
    rows: list[dict[int, dict[str, bool]]] = []
    for file, result in part:
        path = file.parent / result["records_file"]
        if not path.exists():
            return None, f"there is no {path}"
        identity, records = read_records(path)
        if identity != result["identity"]:
            return None, f"{path} holds records of another test than {file}"
        row: dict[int, dict[str, bool]] = {}
        for record in records.values():
            row.setdefault(record.size, {})[record.id] = record.correct
        told = {size: (len(of), sum(of.values())) for size, of in row.items()}
        counted = {int(s): (c["n"], c["correct"]) for s, c in result["by_size"].items()}
        if told != counted:
            return None, f"{file} is not the summary of {path}: run the test again, it sums up anew"
        rows.append(row)
    ids = {size: tuple(sorted(rows[0][size])) for size in sorted(rows[0])}
    for (file, _), row in zip(part, rows, strict=True):
        if {size: tuple(sorted(row[size])) for size in sorted(row)} != ids:
            return (
                None,
                f"{file} and {part[0][0]} did not answer the same entries: finish the tests",
            )
    correct_SE = {
        size: np.array([[row[size][name] for name in names] for row in rows], dtype=bool)
        for size, names in ids.items()
    }
    entries = part[0][1]["identity"].get("entries")
    # Without a word on what was asked nothing is taken for the same.
    asked = f"entries {entries}" if entries else f"file {part[0][0].resolve()}"
    return Answers(asked, ids, correct_SE), None


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
