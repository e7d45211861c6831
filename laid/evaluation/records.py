"""One record for every answered entry, on disk at once, so that a killed test can be resumed.

A records file is JSON Lines: a `Header` that says what was tested, then one `Record` a line.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from laid.common.atomic_files import atomic_write_bytes
from laid.common.differences import differences
from laid.common.errors import UserError
from laid.common.json_codec import Json, from_json, plain, to_json


@dataclass(frozen=True)
class Header:
    """The first line of a records file; ``identity`` is all that decides an answer."""

    FORMAT: ClassVar = {"laid_records": 1}

    identity: Json


@dataclass(frozen=True, slots=True)
class Record:
    """One entry and the answer to it.

    Attributes:
        id: the entry's name, unique within a test.
        size: images in the haystack.
        answer_gold: "yes" or "no".
        answer: what the model said, special tokens removed.
        correct, compliant: see `laid.evaluation.scoring.score_answer`.
        depth: where the needles lie, see `needle_depth`; None if the haystack is one image.
        tokens: length of the model's input (text and images) in tokens.
        mode: the kind of question: "single", "all" or "any" (`laid.data.entries`).

    Raises:
        UserError: if a value is out of range.
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

    def __post_init__(self) -> None:
        if self.answer_gold not in ("yes", "no"):
            raise UserError(f"answer_gold is {self.answer_gold!r}, expected 'yes' or 'no'")
        if self.size < 1 or self.tokens < 0:
            found = f"a record has size {self.size} and tokens {self.tokens}"
            raise UserError(f"{found}, expected at least one image and no negative length")
        if self.depth is not None and not 0 <= self.depth <= 1:
            raise UserError(f"depth is {self.depth}, expected 0 (first image) to 1 (last image)")


def needle_depth(positions: Sequence[int], size: int) -> float | None:
    """Where the needles lie: their mean position / (size - 1), 0 = first image, 1 = last.

    None for a haystack of one image, where first and last are the same.

    Args:
        positions: index of each needle image among the haystack's ``size`` images, from 0.

    Raises:
        UserError: there is no needle, or one outside the haystack.
    """
    if not positions or not all(0 <= position < size for position in positions):
        raise UserError(
            f"needles at {list(positions)} in a haystack of {size} images, expected at least one "
            f"position and each from 0 to {size - 1}"
        )
    return sum(positions) / (len(positions) * (size - 1)) if size > 1 else None


def read_records(path: str | Path) -> tuple[Json, dict[str, Record]]:
    """Read a records file and leave it as it is.

    Returns:
        The identity of what was tested, and the records by entry id, in file order. A half-written
        last line (the process was killed) is ignored; of two records with one id the first counts.

    Raises:
        UserError: if there is no such file, it isn't a records file, or a line is broken.
    """
    return _read(Path(path))[:2]


class RecordFile:
    """The records file of a running test: the entries answered so far, and how to add to them.

    What is on disk decides what opening does:

    - no file: one with only the header is created;
    - records of the same identity: they are read into `done`, and a half-written last line is cut;
    - records of another identity: the file is renamed `<stem>-<8 hex>.jsonl`, the hex digits a
      hash of *its* identity, and a new one is created. `kept` says where the old one is and
      `changed` what differs. If records of the new identity were renamed earlier, that file is
      renamed back and resumed.

    One process writes a records file: on several ranks, gather the records and let rank 0 append.

    Args:
        path: usually `records.jsonl`.
        identity: what is tested, as JSON: everything that would change an answer.

    Attributes:
        done: records on disk by entry id, in file order.
        kept: where records of another identity went, or None.
        changed: `differences` of the kept file's identity and this one; empty when none was kept.

    Raises:
        UserError: if `identity` can't be written as JSON; if the file isn't a records file or
            has a broken line (with file and line number); if a kept file would be overwritten.
    """

    def __init__(self, path: str | Path, identity: Json) -> None:
        self.path = Path(path)
        self.identity = plain(identity, "the identity of a test", sort_keys=True)
        self.done: dict[str, Record] = {}
        self.kept: Path | None = None
        self.changed: dict[str, tuple[Any, Any]] = {}
        if self._resume():
            return
        if (earlier := self._kept_path(self.identity)).exists():
            os.rename(earlier, self.path)
        if not self._resume():
            # Written whole or not at all: a file never has half a header.
            atomic_write_bytes(self.path, _line(Header(self.identity)))

    def append(self, records: Iterable[Record]) -> int:
        """Add records; on return they are on the disk, not only handed to the system.

        A record whose id is there already is ignored: the first one counts. Returns how many were
        added.

        Raises:
            OSError: they can't be written (a full disk); the file is then as before the call.
        """
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
            except BaseException:
                file.truncate(end)
                raise
        self.done.update(new)
        return len(new)

    def _resume(self) -> bool:
        """Resume the file at `path`; False if there is none, or another identity's was renamed."""
        # An empty file holds nothing to keep and nothing to be wrong.
        if not self.path.exists() or (self.path.is_file() and self.path.stat().st_size == 0):
            return False
        identity, records, whole = _read(self.path)
        if identity != self.identity:
            kept = self._kept_path(identity)
            if kept.exists():
                raise UserError(
                    f"{self.path} holds records of another test and would be kept as {kept}, "
                    "which exists already; move one of the two away"
                )
            os.rename(self.path, kept)
            self.kept, self.changed = kept, differences(identity, self.identity)
            return False
        if whole < self.path.stat().st_size:
            os.truncate(self.path, whole)
        self.done = records
        return True

    def _kept_path(self, identity: Json) -> Path:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return self.path.with_name(f"{self.path.stem}-{digest[:8]}{self.path.suffix}")


def _line(value: Header | Record) -> bytes:
    return json.dumps(to_json(value), allow_nan=False).encode() + b"\n"


def _read(path: Path) -> tuple[Json, dict[str, Record], int]:
    """Identity, records, and the length in bytes of the file's whole lines."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"can't read records from {path}: {error.strerror}") from error
    *lines, half = content.split(b"\n")
    try:
        header = from_json(Header, json.loads(lines[0] if lines else b""))
    except ValueError as error:
        form = json.dumps({**Header.FORMAT, "identity": {}})
        raise UserError(
            f"{path}, line 1: expected the header of a records file, {form} ({error}); give "
            "another path, or move the file away"
        ) from error
    records: dict[str, Record] = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            record = from_json(Record, json.loads(line))
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: broken record ({error}); remove the line, and its entry "
                "is asked again"
            ) from error
        records.setdefault(record.id, record)
    return header.identity, records, len(content) - len(half)
