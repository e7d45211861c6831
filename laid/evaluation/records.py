"""One record for every answered entry, on disk at once, so that a killed test can be resumed.

A records file is JSON Lines: a `Header` that says what was tested, then one `Record` a line.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from laid.common.atomic_files import atomic_write_bytes
from laid.common.differences import differences
from laid.common.errors import UserError
from laid.common.json_codec import Json, from_json, plain, to_json
from laid.evaluation.scoring import Answer, Asked, needle_depth, score_answer

RECORDS, RESULTS = "records.jsonl", "results.json"
"""The files of a test."""
SOURCES = "sources"
"""The folder with a folder for each source of conversations, which has files of its own."""


@dataclass(frozen=True)
class Header:
    """The first line of a records file; ``identity`` is all that decides an answer."""

    FORMAT: ClassVar = {"laid_records": 2}

    identity: Json


@dataclass(frozen=True, slots=True)
class Record:
    """One entry and the answer to it.

    Attributes:
        id: the entry's name, unique within a test.
        size: images in the haystack.
        answer_gold: the right answer.
        answer: what the model said, special tokens removed.
        correct, compliant: see `laid.evaluation.scoring.score_answer`.
        depth: where the needles lie, see `needle_depth`; None if it is one image, or not known.
        tokens: length of the model's input (text and images) in tokens.
        mode: the kind of question: "single", "all" or "any" (`laid.data.entries`).
        truncated: whether the answer was cut at ``max_new_tokens``.
        scoring: the rule of `correct` and `compliant`.

    Raises:
        UserError: a value is out of range, or `correct` or `compliant` contradicts the answers.
    """

    id: str
    size: int
    answer_gold: str
    answer: str
    correct: bool
    compliant: bool
    depth: float | None
    tokens: int
    mode: str
    truncated: bool
    scoring: str = "yes-no"

    def __post_init__(self) -> None:
        if self.size < 0 or self.tokens < 0:
            found = f"a record has size {self.size} and tokens {self.tokens}"
            raise UserError(f"{found}, expected 0 or more of each")
        known = self.size > 1 and (bool(self.mode) or self.depth is not None)
        if (self.depth is not None) != known or not 0 <= (self.depth or 0) <= 1:
            expected = (
                "0 (first image) to 1 (last image), or null of one image or of a conversation"
            )
            raise UserError(f"depth is {self.depth} of {self.size} images, expected {expected}")
        scored = score_answer(self.answer, self.answer_gold, self.scoring)
        if (self.correct, self.compliant) != scored:
            raise UserError(
                f"correct is {self.correct} and compliant {self.compliant}, but for the answer "
                f"{self.answer[:80]!r} and answer_gold {self.answer_gold!r} they are "
                f"{scored.correct} and {scored.compliant}"
            )

    @classmethod
    def of(cls, entry: Asked, answer: Answer, tokens: int) -> "Record":
        """Of an entry, what the model said, and the length of the input in tokens."""
        return cls(
            id=entry.id,
            size=entry.size,
            answer_gold=entry.answer,
            answer=answer.text,
            **score_answer(answer.text, entry.answer, entry.scoring)._asdict(),
            depth=None if entry.source else needle_depth(entry.needles, entry.size),
            tokens=tokens,
            mode=entry.mode,
            truncated=answer.truncated,
            scoring=entry.scoring,
        )


class Recorded(NamedTuple):
    """What a records file holds.

    Attributes:
        identity: of what was tested.
        records: by entry id, in file order; of two records with one id the first counts.
        length: of the whole lines, in bytes: without a half-written last line.
    """

    identity: Json
    records: dict[str, Record]
    length: int


def read_records(path: str | Path) -> Recorded:
    """Read a records file and leave it as it is; a half-written last line is passed over.

    Raises:
        UserError: if there is no such file, it isn't a records file, or a line is broken.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"can't read records from {path}: {error.strerror}") from error
    *lines, half = content.split(b"\n")
    try:
        header = from_json(Header, json.loads(lines[0] if lines else b""))
    except (ValueError, RecursionError) as error:
        form = json.dumps({**Header.FORMAT, "identity": {}})
        raise UserError(
            f"{path}, line 1: expected the header of a records file, {form} ({error}); give "
            "another path, or move the file away"
        ) from error
    records: dict[str, Record] = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            record = from_json(Record, json.loads(line))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number}: broken record ({error}); remove the line, and its entry "
                "is asked again"
            ) from error
        records.setdefault(record.id, record)
    return Recorded(header.identity, records, len(content) - len(half))


class RecordFile:
    """The records file of a running test: the entries answered so far, and how to add to them.

    Opening reads what is there; the first `append` changes the disk, so that a test that fails
    before its first answer leaves all as it was:

    - no file: one is begun;
    - records of the same identity: they are in `done`, and a half-written last line is cut;
    - records of another identity: the file is renamed `<stem>-<8 hex>.jsonl`, the hex digits a
      hash of *its* identity, and a new one is begun. `kept` says where the old one goes and
      `changed` what differs. If records of the new identity were renamed earlier, these are in
      `done`, and their file is renamed back.

    One process writes a records file: on several ranks, gather the records and let rank 0 append.

    Args:
        path: usually `records.jsonl`.
        identity: what is tested, as JSON: everything that would change an answer.
        asked: the entries of the test, which all records must be of; None: of any.

    Attributes:
        done: records on disk by entry id, in file order.
        kept: where records of another identity go, or None.
        changed: `differences` of the kept file's identity and this one; empty when none is kept.

    Raises:
        UserError: `identity` can't be written as JSON; the file isn't a records file or has a
            broken line (with file and line number), or a record of an entry that is not asked; a
            kept file would be overwritten.
    """

    def __init__(
        self, path: str | Path, identity: Json, asked: Iterable[Asked] | None = None
    ) -> None:
        self.path = Path(path)
        self.identity = plain(identity, "the identity of a test", sort_keys=True)
        self.kept: Path | None = None
        self.changed: dict[str, tuple[Any, Any]] = {}
        self._begun = False
        self._resumed, found = self._find()
        self.done, self._length = (found.records, found.length) if found else ({}, 0)
        if asked is not None and self.done:
            entries = {entry.id: entry for entry in asked}
            for record in self.done.values():
                said = Answer(record.answer, record.truncated)
                entry = entries.get(record.id)
                if entry is None or record != Record.of(entry, said, record.tokens):
                    raise UserError(
                        f"{self._resumed} has a record of {record.id!r}, which is not asked, or "
                        "not with this size, answer, depth and mode; remove its line, or the file"
                    )

    def append(self, records: Iterable[Record]) -> int:
        """Add records; on return they are on the disk, not only handed to the system.

        A record whose id is there already is ignored: the first one counts. Returns how many were
        added.

        Raises:
            OSError: they can't be written (a full disk); the file is then as before the call.
        """
        self._begin()
        new: dict[str, Record] = {}
        for record in records:
            if record.id not in self.done:
                new.setdefault(record.id, record)
        if not new:
            return 0
        rest = memoryview(b"".join(_line(record) for record in new.values()))
        # Unbuffered, so that a failed write leaves nothing behind that close() would write later.
        with self.path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except BaseException as error:
                file.truncate(end)
                if isinstance(error, OSError):
                    error.filename = str(self.path)  # a full disk names none
                raise
        self.done.update(new)
        return len(new)

    def _find(self) -> tuple[Path | None, Recorded | None]:
        """The file to go on with, and what it holds; None if a new one is to be begun."""
        # An empty file holds nothing to keep and nothing to be wrong.
        if self.path.exists() and not (self.path.is_file() and self.path.stat().st_size == 0):
            found = read_records(self.path)
            if found.identity == self.identity:
                return self.path, found
            self.kept = self._kept_path(found.identity)
            self.changed = differences(found.identity, self.identity)
            if self.kept.exists():
                raise UserError(
                    f"{self.path} holds records of another test and would be kept as {self.kept}, "
                    "which exists already; move one of the two away"
                )
        if (earlier := self._kept_path(self.identity)).exists():
            found = read_records(earlier)
            if found.identity != self.identity:
                raise UserError(f"{earlier} holds records of another test: move it away")
            return earlier, found
        return None, None

    def _begin(self) -> None:
        if self._begun:
            return
        if self.kept:
            os.rename(self.path, self.kept)
        if self._resumed is None:
            # Written whole or not at all: a file never has half a header.
            atomic_write_bytes(self.path, _line(Header(self.identity)))
        else:
            os.truncate(self._resumed, self._length)
            os.rename(self._resumed, self.path)
        self._begun = True

    def _kept_path(self, identity: Json) -> Path:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return self.path.with_name(f"{self.path.stem}-{digest[:8]}{self.path.suffix}")


def _line(value: Header | Record) -> bytes:
    return json.dumps(to_json(value), allow_nan=False).encode() + b"\n"
