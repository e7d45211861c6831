"""A folder with a teacher's signals of entries.

    FOLDER/cache.json            what it depends on, and what it holds of each entry
    FOLDER/teacher/config.json   the teacher's configuration
    FOLDER/shards/00000/         the signals of the first entries, ...

A shard (``laid.common.tensor_shards``) holds the same number of consecutive entries as every other
but the last.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, get_args

from tqdm import tqdm

from laid.common.atomic_files import atomic_write_text, locked, sweep
from laid.common.cached_folders import cached_folder, is_whole
from laid.common.errors import UserError
from laid.common.first_rank import is_first_rank
from laid.common.json_codec import Json, from_json, to_json
from laid.common.json_files import read_json
from laid.common.tensor_shards import Item, TensorShards
from laid.signals.model_signals import Wanted
from laid.teacher_cache.entry_signals import HeldSignals, held_signals
from laid.teacher_cache.stored_numbers import StoredAs

HEADER, TEACHER, SHARDS = "cache.json", "teacher", "shards"
CARD = "README.md"
"""What ``laid cache push`` writes beside them."""


@dataclass(frozen=True)
class CacheHeader:
    """What a cache depends on, and what it holds.

    Attributes:
        teacher, reading: as ``laid.teacher_cache.cache_identity`` gives them.
        wanted: what it holds.
        stored_as: in which numbers.
        entries_per_shard: of every shard but the last.
    """

    FORMAT: ClassVar[Json] = {"laid_teacher_cache": 2}

    teacher: Json
    reading: Json
    wanted: Wanted
    stored_as: str
    entries_per_shard: int

    def __post_init__(self) -> None:
        if self.stored_as not in (known := get_args(StoredAs)):
            raise UserError(f"stored_as is {self.stored_as!r}, expected one of {known}")
        if self.entries_per_shard < 1:
            raise UserError(f"entries_per_shard is {self.entries_per_shard}, expected 1 or more")
        entries = self.reading.get("entries")
        count = entries.get("count") if isinstance(entries, dict) else None
        if type(count) is not int or count < 1:
            raise UserError(f"reading.entries.count is {count!r}, expected a number of entries")

    @property
    def key(self) -> str:
        """A hash of all of it."""
        content = json.dumps(to_json(self), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def entries(self) -> int:
        """How many it is of."""
        count: int = self.reading["entries"]["count"]
        return count


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a cache without gaps, whatever it is of."""
    try:
        store = SignalStore.open(folder)
    except UserError:
        return False
    return is_whole(store.teacher) and not store.unfinished()


@dataclass(frozen=True)
class SignalStore:
    """A cache's folder."""

    folder: Path
    header: CacheHeader

    @cached_property
    def _tensors(self) -> TensorShards:
        return TensorShards(self.folder / SHARDS, self.header.key, self.advice)

    @classmethod
    def open(cls, folder: Path) -> "SignalStore":
        """A cache that is there.

        Raises:
            UserError: there is none, or its header is not one.
        """
        path = folder / HEADER
        if not path.is_file():
            raise UserError(f"{folder} is no cache of a teacher's signals: it has no {HEADER}")
        try:
            return cls(folder, from_json(CacheHeader, read_json(path)))
        except UserError as reason:
            raise UserError(
                f"{path}: {reason}. Remove it and run `laid cache` with the settings that "
                "the cache was made with, which keeps its shards"
            ) from reason

    @classmethod
    def begin(cls, folder: Path, header: CacheHeader) -> "SignalStore":
        """The cache in ``folder``, which is begun if there is none; its header may be another.

        Raises:
            UserError: the folder holds something else.
            OSError: it can't be written.
        """
        if folder.is_file():
            raise UserError(f"{folder} is a file: name a folder for the cache")
        folder.mkdir(parents=True, exist_ok=True)
        # Not the folder itself, which is locked for what is written into it.
        with locked(folder.absolute().parent):
            if not (folder / HEADER).is_file():
                names = {path.name for path in folder.iterdir() if path.name[0] != "."}
                of_cache = {TEACHER, SHARDS} | ({CARD} if SHARDS in names else set())
                if other := names - of_cache:
                    raise UserError(
                        f"{folder} is not empty and no cache (it holds {min(other)}): name a "
                        "folder for the cache alone"
                    )
                atomic_write_text(folder / HEADER, json.dumps(to_json(header), indent=1) + "\n")
        (folder / SHARDS).mkdir(exist_ok=True)
        for place in (folder, folder / SHARDS):
            sweep(place)
        return cls.open(folder)

    def keep_teacher(self, write: Callable[[Path], object]) -> None:
        """Keeps the teacher's configuration, as ``write`` writes it into a folder."""
        cached_folder(self.teacher, write)

    @property
    def teacher(self) -> Path:
        return self.folder / TEACHER

    @property
    def shards(self) -> range:
        return range(-(-self.header.entries // self.header.entries_per_shard))

    def place(self, shard: int) -> Path:
        return self._tensors.place(_name(shard))

    def entries_of(self, shard: int) -> range:
        """The places in the order of entries of those in a shard."""
        first = shard * self.header.entries_per_shard
        return range(first, min(first + self.header.entries_per_shard, self.header.entries))

    def unfinished(self) -> list[int]:
        """Shards that are missing, not as they were made, or of another cache."""
        bar = tqdm(
            self.shards, "checking shards", delay=2, mininterval=1, disable=not is_first_rank()
        )
        return [shard for shard in bar if not self.has(shard)]

    def has(self, shard: int) -> bool:
        """Whether a shard is there, whole, and of this cache."""
        return self._tensors.has(_name(shard))

    def check_whole(self) -> None:
        """Raises ``UserError`` unless everything is there as it was made."""
        places = [self.place(shard) for shard in self.unfinished()]
        if not is_whole(self.teacher):
            places.append(self.teacher)
        if places:
            state = "damaged" if places[0].exists() else "missing"
            raise UserError(
                f"{len(places)} of {len(self.shards) + 1} parts of the cache {self.folder} are "
                f"missing or damaged, the first {places[0].relative_to(self.folder)} ({state}). "
                f"{self.advice}"
            )

    def write(self, shard: int, entries: Sequence[Item]) -> None:
        """Writes a shard, unless another process has; entries as ``entry_item`` makes them.

        Raises:
            OSError: it can't be written.
        """
        self._tensors.write(_name(shard), entries)

    def tokens(self, shard: int) -> dict[str, int]:
        """Tokens of each entry of a shard by its id, in order.

        Raises:
            UserError: it can't be read.
        """
        index = self._tensors.index(_name(shard))
        return {name: tokens for name, (tokens,) in zip(index.ids, index.numbers, strict=True)}

    def read(self, shard: int, n: int, wanted: Wanted) -> HeldSignals:
        """The signals of a shard's entry number ``n``.

        Raises:
            UserError: they can't be read.
        """
        stored = self._tensors.reader(_name(shard), n)
        return held_signals(stored, self.header.wanted, wanted, self.header.stored_as)

    def read_ahead(self, shard: int, n: int) -> None:
        """As ``TensorShards.read_ahead``."""
        self._tensors.read_ahead(_name(shard), n)

    @property
    def advice(self) -> str:
        """How to make again what is missing or damaged."""
        return (
            f"`laid cache --out {self.folder}` with the settings that it was begun with makes "
            "what is missing or damaged and keeps the rest"
        )


def _name(shard: int) -> str:
    return f"{shard:05d}"
