"""Conversations from JSON Lines, JSON, and Hugging Face datasets.

docs/own_data.md has an example of each.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from laid.common.cached_files import cache_root
from laid.common.cached_folders import cached_folder
from laid.common.errors import UserError
from laid.common.file_hashes import file_hashes
from laid.common.json_files import read_json
from laid.data.conversation_rows import Conversation, is_conversation, read_conversation
from laid.data.entries import CONVERSATION_FEATURES, HaystackEntry, dataset_of
from laid.data.image_names import check_present, clean_name, of_source, without_source
from laid.data.question_text import QuestionCheck
from laid.data.vhs_files import load_columns
from laid.evaluation.scoring import Scoring, score_answer
from laid.vlm.processor import IMAGE_MARK

log = logging.getLogger(__name__)

_CHUNK = 10_000
"""Rows that are Python objects at a time; the rest is in Arrow's memory."""


@dataclass(frozen=True)
class Rows:
    """A source of conversations, not yet looked into.

    Attributes:
        source: as the user gave it.
        numbered: gives the rows, each with its number: its line in JSON Lines, else its index.
        columns: the dataset; None of a file.
    """

    source: str
    numbered: Callable[[], Iterator[tuple[int, Any]]]
    columns: Dataset | None = None

    def where(self, number: int) -> str:
        """What a message calls a row."""
        return _row_place(self.source, number)

    def conversations(self) -> Iterator[tuple[int, Conversation]]:
        """The rows, read.

        Raises:
            UserError: one is no conversation; names it.
        """
        for number, row in self.numbered():
            try:
                yield number, read_conversation(row)
            except UserError as error:
                raise UserError(f"{self.where(number)}: {error}") from error


@dataclass(frozen=True)
class Wanted:
    """What a stage wants of its conversations.

    Attributes:
        answered: each has an answer.
        scoring: the rule that answers are scored by; None: they are not.
        trained: the turns whose answers are trained, "last" or "all"; None: none.
    """

    answered: bool = True
    scoring: Scoring | None = None
    trained: str | None = None


def source_name(source: str) -> str:
    """What a source is called for short, a name for a folder: without folders, suffix, split."""
    stem = Path(source.removeprefix("hf:").partition(":")[0]).stem
    return re.sub(r"[^\w.-]", "_", stem).strip(".") or "data"


def open_rows(source: str, role: str) -> Rows | None:
    """The rows of a source of conversations; None of a source of haystacks.

    Args:
        source: ends in ``.jsonl`` or ``.json``; else a dataset, as ``load_columns`` takes it.
        role: the split of a dataset that says none.

    Raises:
        UserError: it can't be read.
    """
    if source.endswith(".jsonl"):
        return Rows(source, lambda: _lines(source))
    if source.endswith(".json"):
        content = read_json(source)
        if not (isinstance(content, list) and content and is_conversation(content[0])):
            return None
        return Rows(source, lambda: enumerate(content))
    data = load_columns(source, role)
    if not is_conversation(dict.fromkeys(data.column_names)):
        return None
    return Rows(source, lambda: _raw(data), data)


def load_conversations(
    rows: Rows, image_root: str | None, check: QuestionCheck, wanted: Wanted
) -> tuple[Dataset, Path]:
    """Entries with the columns ``CONVERSATION_FEATURES``, and the folder of their images.

    Images that a dataset holds are written to the cache.

    Args:
        image_root: folder that file names are relative to; None: that of the source.

    Raises:
        UserError: a row is no conversation or not as ``wanted``, an image is missing or not in the
            folder, or a text holds a control token; names file and line.
    """
    stem = source_name(rows.source)
    image = None if rows.columns is None else _first_image(rows)
    embedded = isinstance(image, dict) and "bytes" in image
    if embedded:
        folder = _in_cache(rows)
    elif image is not None and image_root is None:
        raise UserError(
            f"{rows.source} names image files: give the folder that they are in, image_root "
            "(data.image_root of a run)"
        )
    else:
        folder = Path(image_root or Path(rows.source).parent)

    def entry(number: int, talk: Conversation) -> HaystackEntry:
        try:
            images = [
                _embedded_name(number, k) if embedded else _file_name(folder, image)
                for k, image in enumerate(talk.images)
            ]
            _check(talk, check, wanted)
        except UserError as error:
            raise UserError(f"{rows.where(number)}: {error}") from error
        return HaystackEntry(
            id=f"{stem}-{number:06d}",
            question=talk.turns[-1].text.replace(IMAGE_MARK, "").strip(),
            answer=talk.answer,
            size=len(images),
            images=tuple(of_source(rows.source, name) for name in images),
            turns=talk.turns,
            source=rows.source,
            scoring=wanted.scoring or "exact",
        )

    parts, numbers = [], []
    read = rows.conversations()
    while some := list(islice(read, _CHUNK)):
        parts.append(dataset_of((entry(*one) for one in some), CONVERSATION_FEATURES))
        numbers += [number for number, _ in some]
    if not parts:
        raise UserError(f"{rows.source} has no rows: expected at least one conversation")
    entries = concatenate_datasets(parts)
    if not embedded:
        _check_files(entries, numbers, folder, rows)
    if bare := list(entries["size"]).count(0):
        log.info("%s: %s of %s rows have no image", rows.source, f"{bare:,}", f"{len(entries):,}")
    return entries, folder


def _check(talk: Conversation, check: QuestionCheck, wanted: Wanted) -> None:
    for turn in talk.turns:
        for piece in turn.text.split(IMAGE_MARK):
            check.text(piece, f"the {turn.role}'s message")
    check.text(talk.answer, "the answer")
    if wanted.answered and not talk.answer:
        raise UserError("the last message is the user's, expected an answer of the assistant")
    if wanted.scoring is not None:
        score_answer("", talk.answer, wanted.scoring)
    if wanted.trained is not None:
        earlier = [t.text for t in talk.turns if t.role == "assistant" and wanted.trained == "all"]
        for answer in (*earlier, talk.answer):
            check.length(answer)


def _check_files(entries: Dataset, numbers: list[int], folder: Path, rows: Rows) -> None:
    """Raises ``UserError`` where files are missing, with the line of the first."""
    names = [[without_source(name) for name in row] for row in entries["images"]]
    try:
        check_present(folder, (name for row in names for name in row), rows.source)
    except UserError as error:
        for number, row in zip(numbers, names, strict=True):
            if not all((folder / name).exists() for name in row):
                raise UserError(f"{rows.where(number)}: {error}") from error
        raise


def _file_name(folder: Path, image: Any) -> str:
    """The name of an image file below the folder."""
    name = image.get("path") if isinstance(image, dict) else image
    if not isinstance(name, str) or "://" in name or name.startswith("data:"):
        raise UserError(f"the image {str(image)[:60]!r} is no file name")
    if Path(name).is_absolute() and Path(name).is_relative_to(folder.absolute()):
        name = str(Path(name).relative_to(folder.absolute()))
    try:
        return clean_name(folder, name)
    except UserError as error:
        raise UserError(
            f"{error} The folder is that of the file, or image_root (data.image_root of a run)"
        ) from error


def _embedded_name(number: int, k: int) -> str:
    return f"{number:06d}-{k}"


def _first_image(rows: Rows) -> Any:
    """The first image of any row; None where no row has one."""
    return next((talk.images[0] for _, talk in rows.conversations() if talk.images), None)


def _in_cache(rows: Rows) -> Path:
    """The folder in the cache with the images of a dataset, written the first time."""
    assert rows.columns is not None
    files = file_hashes(Path(file["filename"]) for file in rows.columns.cache_files)
    key = [files, str(rows.columns.split), len(rows.columns)]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]

    def fill(new: Path) -> None:
        for number, talk in rows.conversations():
            for k, image in enumerate(talk.images):
                if not (isinstance(image, dict) and isinstance(image.get("bytes"), bytes)):
                    raise UserError(
                        f"{rows.where(number)}: image {k} has no bytes; write the dataset with "
                        "Dataset.save_to_disk, which puts them in"
                    )
                (new / _embedded_name(number, k)).write_bytes(image["bytes"])

    folder = cache_root() / "images" / name
    cached_folder(folder, fill)
    return folder


def _lines(source: str) -> Iterator[tuple[int, Any]]:
    try:
        with open(source, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    text = line.decode("utf-8-sig").strip()
                    if text:
                        yield number, json.loads(text)
                except RecursionError as error:
                    raise UserError(f"{source}, line {number}: nested too deeply") from error
                except ValueError as error:
                    raise UserError(
                        f"{source}, line {number}: not JSON in UTF-8 ({error}); expected one "
                        "object a line; a list belongs into a file that ends in .json"
                    ) from error
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror or error}.") from error


def entry_place(name: str, source: str) -> str:
    """What a message calls the entry with the id ``name``: of a conversation its row."""
    return _row_place(source, int(name.rpartition("-")[2])) if source else f"entry {name}"


def _row_place(source: str, at: int) -> str:
    """A row by its number: of a JSON file it says the line too that the row begins in."""
    if source.endswith(".jsonl"):
        return f"{source}, line {at}"
    if not source.endswith(".json"):
        return f"{source}, row {at}"
    text = Path(source).read_text("utf-8-sig")
    decoder, position = json.JSONDecoder(), text.index("[") + 1
    for number in range(at + 1):
        while text[position] in " \t\r\n,":
            position += 1
        start = position
        if number < at:
            _, position = decoder.raw_decode(text, position)
    return f"{source}, line {text.count(chr(10), 0, start) + 1} (entry {at})"


def _raw(data: Dataset) -> Iterator[tuple[int, Any]]:
    """The rows of a dataset as they are stored: images as their bytes."""
    at = 0
    for table in data.with_format("arrow").iter(batch_size=64):
        for row in table.to_pylist():
            yield at, row
            at += 1
