"""Haystack entries as lmms-eval and VLMEvalKit read them.

Both find images by absolute paths, so what is written belongs to this machine's COCO folder.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from datasets import Dataset

from laid.data.entries import HaystackEntry

Format = Literal["vhs", "lmms-eval", "vlmeval"]
TEST_FILES: dict[Format, str] = {
    "vhs": "test_{}.json",
    "lmms-eval": "haystacks_{}.yaml",
    "vlmeval": "Haystacks_{}.tsv",
}
"""By format, the file of a haystack size."""
SHARED_FILES: dict[Format, list[str]] = {
    "vhs": [],
    "lmms-eval": ["haystacks.yaml", "utils.py"],
    "vlmeval": [],
}
"""And those of all sizes together."""
_MAX_NEW_TOKENS = 16


class _Function(str):
    """A function of the file beside the YAML, by lmms-eval's own tag."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    _Function, lambda dumper, name: dumper.represent_scalar("!function", f"utils.{name}")
)


def task_files(
    entries: Mapping[int, Dataset], format: Format, root: Path, home: Path, prefix: str
) -> dict[str, str]:
    """A benchmark's tasks, one a haystack size.

    **lmms-eval**: a folder for ``--include_path``. Each task has ``doc_to_messages``, so images
    come first and the question has no mark of an image.

    **VLMEvalKit**: a TSV for its data folder with ``index``, ``image_path`` (a list where there are
    several), ``question``, ``answer`` and ``id``. It shows images first too. Answers are "Yes" and
    "No", as its ``ImageYORNDataset`` compares them to the letter.

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
        return {TEST_FILES[format].format(size): _tsv(of) for size, of in rows.items()}
    written = {"utils.py": (files("laid.data") / "lmms_eval_task.py").read_text("utf-8")}
    for size, of_size in rows.items():
        name = TEST_FILES[format].format(size)
        lines = [json.dumps(row, ensure_ascii=False) for row in of_size]
        beside = Path(name).with_suffix(".jsonl")
        written[str(beside)] = "\n".join([*lines, ""])
        written[name] = _yaml(beside.stem, home / beside)
    tasks = [Path(TEST_FILES[format].format(size)).stem for size in rows]
    group = {"group": "haystacks", "task": tasks}
    return {**written, "haystacks.yaml": yaml.safe_dump(group, sort_keys=False)}


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
        answer = row["answer"].capitalize()
        writer.writerow([index, row["id"], shown, row["question"], answer])
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
