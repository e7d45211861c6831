"""Visual Haystacks files: read the official ones, write our own in the same format."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from laid.common.atomic_files import atomic_write_text
from laid.common.errors import UserError
from laid.common.json_files import excerpt, read_json
from laid.common.random_streams import stream
from laid.data.entries import (
    FEATURES,
    MODES,
    HaystackEntry,
    Mode,
    dataset_of,
    entry_id,
    parse_question,
    shown_images,
)
from laid.data.image_names import check_present, clean_name
from laid.data.question_text import without_image_marks

# What the format has no place for: our id and mode, and the order in which the images are shown,
# as positions in pos_image followed by neg_image. Other readers pass over a key they don't know.
_OURS = "laid"
_SAVED = ("dataset_info.json", "dataset_dict.json")
"""One of these is in what ``save_to_disk`` wrote."""


def write_vhs(entries: Dataset, path: str | Path) -> None:
    """Write entries as a Visual Haystacks file; ``read_vhs`` gives back the same rows.

    Args:
        entries: rows with the columns of ``FEATURES``.
        path: the file, replaced in one step if it is there.
    """
    rows = []
    for entry in map(HaystackEntry.of, entries):
        first = sorted(range(entry.size), key=lambda at: at not in entry.needles)
        names = [entry.images[at] for at in first]
        row = {
            "conversations": [
                {"from": "human", "value": entry.question},
                {"from": "gpt", "value": entry.answer},
            ],
            "pos_image": names[: len(entry.needles)],
            "neg_image": names[len(entry.needles) :],
            _OURS: {"id": entry.id, "mode": entry.mode, "order": np.argsort(first).tolist()},
        }
        rows.append(row)
    text = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    atomic_write_text(path, f"[\n{text}\n]\n")


def read_vhs(path: str | Path, coco_root: str | Path, role: str = "test", seed: int = 0) -> Dataset:
    """Read a Visual Haystacks file, official or ours.

    ``<image>`` marks before a question, one an image as in LLaVA's format, are taken off.

    Official files name the images with the needle and those without, in no particular order of
    showing: the images are shuffled, by ``seed`` and the entry's number alone. Anchor, target and
    mode are read from the question where it follows a template of Visual Haystacks; otherwise
    anchor and target are "" and the mode is "single" for one needle and "" for more.

    Args:
        path: the JSON file.
        coco_root: the folder that the image names are relative to.
        role: begins the ids of entries that have none.
        seed: of the order in which images without one are shown.

    Returns:
        One row an entry with the columns of ``FEATURES``, in the order of the file.

    Raises:
        UserError: the file is missing or not in the format (the entry and key are named), an
            image name leads out of ``coco_root``, or images are missing on disk.
    """
    entries = parse_vhs(path, coco_root, role, seed)
    check_present(coco_root, (name for entry in entries for name in entry.images), str(path))
    return dataset_of(entries)


def parse_vhs(path: str | Path, coco_root: str | Path, role: str, seed: int) -> list[HaystackEntry]:
    """``read_vhs`` without a look for the images."""
    path = Path(path)
    rows = read_json(path)
    if not (isinstance(rows, list) and rows):
        raise UserError(f"{path} should hold a list of entries, at least one.")
    entries = []
    for number, row in enumerate(rows):
        try:
            entries.append(_read_entry(row, number, Path(coco_root), role, seed))
        except UserError as error:
            raise UserError(f"{path}, entry {number}: {error}") from error
    return entries


def load_entries(source: str, coco_root: str | Path, role: str = "test", seed: int = 0) -> Dataset:
    """Entries from wherever they are kept, checked like those of ``read_vhs``.

    Args:
        source: a Visual Haystacks file (ends in ``.json``), a folder written by
            ``Dataset.save_to_disk``, or a dataset on the Hugging Face hub, ``name`` or
            ``name:split`` (``role`` is the split by default).
        coco_root: the folder that the image names are relative to.
        role, seed: see ``read_vhs``.

    Raises:
        UserError: there is nothing there, or not with the columns of ``FEATURES``; a row is no
            haystack and is named; an image name leads out of ``coco_root``, or images are missing.
    """
    if source.endswith(".json"):
        return read_vhs(source, coco_root, role, seed)
    entries = load_columns(source, role)
    if lacking := [name for name in FEATURES if name not in entries.column_names]:
        raise UserError(
            f"{source} has no column(s) {lacking}, only {entries.column_names}. Expected the "
            f"columns {list(FEATURES)}."
        )
    try:
        entries = entries.select_columns(list(FEATURES))
        if entries.features != FEATURES:
            # In memory, or the converted copy would be written beside what we only came to read.
            entries = entries.cast(FEATURES, keep_in_memory=True)
    except (TypeError, ValueError) as error:
        raise UserError(f"the columns of {source} have other types: {error}") from error
    if not len(entries):
        raise UserError(f"{source} has no entries.")
    for at, row in enumerate(entries):
        if wrong := _wrong(row, answered=role != "predict"):
            raise UserError(f"{source}, row {at}: {wrong}")
    names = {clean_name(coco_root, name) for name in shown_images(entries)}
    check_present(coco_root, names, source)
    return entries


def load_columns(source: str, role: str) -> Dataset:
    """A Hugging Face dataset as it is.

    Args:
        source: folder written by ``Dataset.save_to_disk``, folder of parquet files or such, or
            ``name`` or ``name:split`` on the hub; ``hf:`` may stand before each.
        role: the split of one that says none.

    Raises:
        UserError: there is no such dataset or split.
    """
    source = source.removeprefix("hf:")
    name, _, split = (source, "", "") if Path(source).exists() else source.partition(":")
    try:
        if not any((Path(source) / known).is_file() for known in _SAVED):
            return load_dataset(name, split=split or role)
        found = load_from_disk(source)
        if not isinstance(found, DatasetDict):
            return found
        if role not in found:
            raise UserError(f"it has the splits {list(found)}, none of them {role!r}")
        return found[role]
    # What `datasets` raises of a folder that it did not write.
    except (OSError, ValueError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise UserError(
            f"cannot load entries from {source!r}: {error}. Expected a Visual Haystacks .json "
            "file, a folder written by Dataset.save_to_disk, or a dataset on the hub as "
            "'name' or 'name:split'."
        ) from error


def _wrong(row: dict[str, Any], answered: bool) -> str | None:
    """What is wrong with a row of a dataset; answers and needles are needed where it is scored."""
    images, needles = row["images"] or [], row["needles"] or []
    if not (row["id"] and (row["question"] or "").strip()):
        return "'id' or 'question' is empty"
    if not images or row["size"] != len(images):
        return f"'size' is {row['size']} and there are {len(images)} 'images': expected as many"
    if row["mode"] not in (*MODES, "", None):
        return f"'mode' is {row['mode']!r}, expected one of {', '.join(MODES)}, or an empty text"
    if answered and (row["answer"] or "").strip().lower() not in ("yes", "no"):
        return f"'answer' is {row['answer']!r}, expected yes or no"
    if answered and not (needles and all(n in range(len(images)) for n in needles)):
        return f"'needles' is {needles}, expected positions in 'images', 0 to {len(images) - 1}"
    return None


def _read_entry(row: Any, number: int, root: Path, role: str, seed: int) -> HaystackEntry:
    """One row of the file."""
    if not isinstance(row, dict):
        raise UserError(f"expected an object, got {excerpt(row)}")
    question, answer = _read_conversation(row.get("conversations"))
    positive, negative = (_read_names(row, key, root) for key in ("pos_image", "neg_image"))
    if not positive:
        raise UserError("'pos_image' is empty: a haystack has at least one needle")
    if both := sorted({*positive} & {*negative}):
        raise UserError(f"{both[0]!r} is both in 'pos_image' and in 'neg_image'")
    names = positive + negative
    question = without_image_marks(question, len(names))
    anchor, target, mode = parse_question(question)
    if (ours := row.get(_OURS)) is None:
        order = stream(seed, "vhs order", number).permutation(len(names)).tolist()
        name = entry_id(role, len(names), number)
        if not mode and len(positive) == 1:
            mode = "single"
    else:
        name, mode, order = _read_ours(ours, len(names))
    return HaystackEntry(
        id=name,
        question=question,
        answer=answer,
        anchor=anchor,
        target=target,
        mode=mode,
        size=len(names),
        images=tuple(names[k] for k in order),
        needles=tuple(at for at, k in enumerate(order) if k < len(positive)),
    )


def _read_conversation(turns: Any) -> tuple[str, str]:
    if not (
        isinstance(turns, list)
        and len(turns) == 2
        and all(isinstance(t, dict) and isinstance(t.get("value"), str) for t in turns)
    ):
        raise UserError(
            "'conversations' should be two objects with a text under 'value', the question and "
            f"the answer; got {excerpt(turns, 120)}"
        )
    question, answer = (turn["value"].strip() for turn in turns)
    if not question:
        raise UserError("the question under 'conversations' is empty")
    word = answer.lower().rstrip(".")
    if word not in ("yes", "no"):
        raise UserError(f"the answer under 'conversations' should be yes or no, not {answer!r}")
    return question, word


def _read_names(row: dict[str, Any], key: str, root: Path) -> list[str]:
    names = row.get(key)
    if not isinstance(names, list):
        raise UserError(f"{key!r} should be a list of image names; got {excerpt(names)}")
    try:
        return [clean_name(root, name) for name in names]
    except UserError as error:
        raise UserError(f"{key!r}: {error}") from error


def _read_ours(ours: Any, size: int) -> tuple[str, Mode | Literal[""], list[int]]:
    try:
        name, mode, order = ours["id"], ours["mode"], ours["order"]
        if isinstance(name, str) and mode in (*MODES, "") and sorted(order) == list(range(size)):
            return name, mode, order
    except (KeyError, TypeError):
        pass
    raise UserError(
        f"{_OURS!r} should hold an 'id', a 'mode' and an 'order' that numbers the {size} images "
        "of 'pos_image' and 'neg_image' from 0; remove the key if the file was edited by hand"
    )
