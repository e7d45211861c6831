"""What lmms-eval and VLMEvalKit write about the answers to a benchmark, entry by entry."""

import csv
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from laid.common.errors import UserError
from laid.common.json_files import read_json
from laid.evaluation.scoring import score_answer

_SAMPLES = re.compile(r".*_samples_(?P<task>.+)\.jsonl")
_TABLES = (".tsv", ".csv", ".xlsx", ".json")
_NO_METRIC = frozenset(
    [
        "arguments",
        "doc",
        "doc_hash",
        "doc_id",
        "filtered_resps",
        "input",
        "input_media",
        "resps",
        "target",
        "token_counts",
    ]
)
_GIVEN = ("parsed_pred", "pred")
"""Keys of a metric without a score that say which answer was taken."""
_SCORES = ("hit", "score")
"""Columns in which VLMEvalKit's evaluation says whether an answer is right."""


class Answered(NamedTuple):
    """The answers of one model to one benchmark.

    Attributes:
        benchmark: its name.
        correct: by entry.
        left_out: entries for which the file does not say whether the answer is right.
    """

    benchmark: str
    correct: dict[str, bool]
    left_out: int


def find_files(what: Path) -> list[Path]:
    """The file itself, or the newest samples file of each task below a folder of lmms-eval.

    Raises:
        UserError: there is none.
    """
    if what.is_file():
        return [what]
    newest: dict[str, Path] = {}
    # Their names begin with the time.
    for path in sorted(what.rglob("*_samples_*.jsonl"), key=lambda path: path.name):
        if found := _SAMPLES.fullmatch(path.name):
            newest[found["task"]] = path
    if not newest:
        raise UserError(
            f"{what}: expected a file of predictions, or a folder in which lmms-eval has written "
            "*_samples_*.jsonl (--log_samples)"
        )
    return [newest[task] for task in sorted(newest)]


def read_answers(path: Path) -> Answered:
    """Reads lmms-eval's samples (``.jsonl``) or a file of VLMEvalKit (``.tsv``, ``.csv``,
    ``.xlsx``, ``.json``).

    Raises:
        UserError: it is neither, has an entry twice, a score that is not right or wrong, or says of
            no entry whether its answer is right.
    """
    samples = _SAMPLES.fullmatch(path.name)
    if samples is None and path.suffix not in _TABLES:
        raise UserError(
            f"{path}: expected *_samples_TASK.jsonl of lmms-eval, or a file of VLMEvalKit "
            f"({', '.join(_TABLES)})"
        )
    correct: dict[str, bool] = {}
    known: set[str] = set()
    rows = _samples(path) if samples else _rows(path)
    for at, (name, value) in enumerate(rows, start=1):
        if name in known:
            raise UserError(f"{path}: entry {name} is there twice (row {at})")
        known.add(name)
        if value is not None:
            correct[name] = _binary(value, f"{path}, entry {name}")
    if not correct:
        raise UserError(
            f"{path} says of no answer whether it is right: lmms-eval scores this task over all "
            "answers or by a judge, or VLMEvalKit has not evaluated them (give the file that it "
            "writes then, with a column hit or score)"
        )
    benchmark = samples["task"] if samples else _benchmark(path)
    return Answered(benchmark, correct, len(known) - len(correct))


def _benchmark(path: Path) -> str:
    """VLMEvalKit writes ``MODEL/…/MODEL_BENCHMARK.tsv``."""
    for folder in path.resolve().parents:
        if folder.name and path.stem.startswith(f"{folder.name}_"):
            return path.stem.removeprefix(f"{folder.name}_")
    return path.stem


def _binary(value: Any, at: str) -> bool:
    if value in (0, 1):
        return bool(value)
    raise UserError(f"{at}: the score is {value!r}; only right (1) and wrong (0) can be compared")


def _samples(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                sample = json.loads(line)  # also raises what is not UTF-8
                # lmms-eval's doc_hash can be the same for all entries: two versions of a benchmark,
                # or two prompts, are told apart by what was asked.
                asked = json.dumps([sample.get(key) for key in ("doc_hash", "input", "target")])
                name = f"{sample['doc_id']}-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"
            except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: expected a sample ({error!r})") from error
            yield name, _score(sample, f"{path}, line {number}")


def _score(sample: Mapping[str, Any], at: str) -> Any:
    """What the task's metrics say of one answer; None if they don't."""
    found = [_of_metric(value) for key, value in sample.items() if key not in _NO_METRIC]
    scores = [score for score in found if score is not None]
    if any(score != scores[0] for score in scores):
        raise UserError(f"{at}: its metrics disagree on whether the answer is right: {scores}")
    return scores[0] if scores else None


def _of_metric(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return value
    if not isinstance(value, Mapping):
        return None
    if "score" in value:
        return value["score"]
    given: Any = next((value[key] for key in _GIVEN if key in value), None)
    if "answer" not in value or value.get("question_type") == "open":
        return None
    given = given[0] if isinstance(given, list) and given else given
    gold = value["answer"]
    if not (isinstance(given, str) and isinstance(gold, str)):
        return None
    # As MUIRBench and, of multiple choice, MMMU compare them.
    return given.strip().lower() == gold.strip().lower()


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    rows = _table(path)
    if not rows or not all({"index", "prediction"} <= row.keys() for row in rows):
        raise UserError(f"{path}: expected VLMEvalKit's columns index and prediction")
    column = next((name for name in _SCORES if name in rows[0]), None)
    for row in rows:
        name, gold = str(row["index"]), str(row.get("answer", ""))
        if column is not None:
            yield name, _number(row.get(column, ""))
        elif gold.strip().lower() in ("yes", "no"):
            yield name, score_answer(str(row["prediction"]), gold).correct
        else:
            yield name, None


def _number(value: Any) -> Any:
    known = {"true": 1, "false": 0, "": None}
    text = str(value).strip().lower()
    try:
        return known[text] if text in known else float(text)
    except ValueError:
        return value


def _table(path: Path) -> Sequence[Mapping[str, Any]]:
    if path.suffix == ".json":
        content = read_json(path)
        if isinstance(content, list) and all(isinstance(row, dict) for row in content):
            return content
        raise UserError(f"{path}: expected a list of objects")
    if path.suffix == ".xlsx":
        return _sheet(path)
    csv.field_size_limit(sys.maxsize)  # a haystack's image paths are long
    with path.open(encoding="utf-8", newline="") as file:
        try:
            return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}: {error}") from error


def _sheet(path: Path) -> list[dict[str, Any]]:
    try:
        import openpyxl
    except ImportError:
        raise UserError(
            f"{path}: openpyxl is needed to read it (pip install openpyxl), or set PRED_FORMAT=tsv "
            "when VLMEvalKit runs"
        ) from None
    try:
        sheet = openpyxl.load_workbook(path, read_only=True, data_only=True).active
        header, *rows = [*sheet.iter_rows(values_only=True)] or [()]
    except Exception as error:  # of a damaged file anything
        raise UserError(f"{path}: not a workbook that can be read ({error})") from error
    cells = [["" if value is None else value for value in row] for row in rows]
    return [dict(zip_longest(header, row, fillvalue="")) for row in cells]  # a row may end early
