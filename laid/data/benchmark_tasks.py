"""Haystack entries as lmms-eval and VLMEvalKit read them.

Both find images by absolute paths, so what is written belongs to this machine's COCO folder.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import yaml
from datasets import Dataset

from laid.data.entries import HaystackEntry

Format = Literal["vhs", "lmms-eval", "vlmeval"]
GROUP = "haystacks"
"""The lmms-eval group of all sizes."""
_MAX_NEW_TOKENS = 16
_UTILS = "utils.py"


class _Function(str):
    """A function of the file beside the YAML, by lmms-eval's own tag."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    _Function, lambda dumper, name: dumper.represent_scalar("!function", f"utils.{name}")
)


def task_names(sizes: Sequence[int], format: Format) -> list[str]:
    """The files that ``task_files`` writes."""
    if format == "vlmeval":
        return [f"Haystacks_{size}.tsv" for size in sizes]
    names = [[f"{GROUP}_{size}.yaml", f"{GROUP}_{size}.jsonl"] for size in sizes]
    return [*chain(*names), f"{GROUP}.yaml", _UTILS]


def task_files(
    entries: Mapping[int, Dataset], format: Format, root: Path, home: Path, prefix: str
) -> dict[str, str]:
    """A benchmark's tasks, one a haystack size.

    **lmms-eval**: a folder for ``--include_path``. Each task has ``doc_to_messages``, so images
    come first and the question has no mark of an image.

    **VLMEvalKit**: a TSV for its data folder with ``index``, ``image_path`` (a list where there are
    several), ``question``, ``answer`` and ``id``. It shows images first too, and scores no data set
    of the user's (``--mode infer``); ``laid compare`` scores the answers.

    Args:
        entries: by haystack size.
        root: the folder that image names are relative to.
        home: where the files will lie: lmms-eval finds the rows by an absolute path.
        prefix: put before each question.

    Returns:
        Texts by file name.
    """
    rows = {size: _rows(of_size, root, prefix) for size, of_size in entries.items()}
    if format == "vlmeval":
        return {f"Haystacks_{size}.tsv": _tsv(of_size) for size, of_size in rows.items()}
    written = {_UTILS: (files("laid.data") / "lmms_eval_task.py").read_text("utf-8")}
    for size, of_size in rows.items():
        task = f"{GROUP}_{size}"
        lines = [json.dumps(row, ensure_ascii=False) for row in of_size]
        written[f"{task}.jsonl"] = "\n".join([*lines, ""])
        written[f"{task}.yaml"] = _yaml(task, home / f"{task}.jsonl")
    group = {"group": GROUP, "task": [f"{GROUP}_{size}" for size in rows]}
    return {**written, f"{GROUP}.yaml": yaml.safe_dump(group, sort_keys=False)}


def _yaml(task: str, rows: Path) -> str:
    functions = ("doc_to_visual", "doc_to_text", "doc_to_messages", "process_results")
    config = {
        "task": task,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "generate_until",
        **{key: _Function(key) for key in functions},
        "doc_to_target": "answer",
        "generation_kwargs": {"max_new_tokens": _MAX_NEW_TOKENS, "do_sample": False},
        "metric_list": [
            {
                "metric": "haystack_accuracy",
                "aggregation": _Function("accuracy"),
                "higher_is_better": True,
            }
        ],
        "metadata": [{"version": 1.0}],
    }
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False)


def _tsv(rows: Iterable[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["index", "id", "image_path", "question", "answer"])
    for index, row in enumerate(rows):
        images = row["images"]
        shown = images[0] if len(images) == 1 else str(images)
        writer.writerow([index, row["id"], shown, row["question"], row["answer"]])
    return out.getvalue()


def _rows(entries: Dataset, root: Path, prefix: str) -> Iterator[dict[str, Any]]:
    for entry in map(HaystackEntry.of, entries):
        yield {
            "id": entry.id,
            "size": entry.size,
            "question": prefix + entry.question,
            "answer": entry.answer,
            "images": [str(root / name) for name in entry.images],
        }
