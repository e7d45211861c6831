"""A folder with a teacher's signals of entries.

    FOLDER/cache.json            what it depends on, and what it holds of each entry
    FOLDER/teacher/config.json   the teacher's configuration
    FOLDER/shards/00000/         the signals of the first entries, ...

A shard holds the same number of consecutive entries as every other but the last, and is a folder
that appears whole, with the checksums of its files; so processes may fill a cache side by side, and
what is damaged is known. All names are relative: the folder may be moved.

Shape suffixes: L tokens of one entry, H query heads, K KV heads, D head_dim, N answer tokens, V
vocabulary.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from laid.common.atomic_files import atomic_write_text, discard, locked, sweep
from laid.common.cached_folders import cached_folder, is_whole
from laid.common.errors import UserError
from laid.common.first_rank import is_first_rank
from laid.common.json_codec import Json, from_json, to_json
from laid.common.json_files import read_json
from laid.signals.model_signals import QK, Signals, Wanted
from laid.teacher_cache.stored_numbers import StoredAs, packed, unpacked

HEADER, TEACHER, SHARDS = "cache.json", "teacher", "shards"
_INDEX, _SIGNALS = "index.json", "signals.safetensors"
_OPEN = 64
"""Shards that a process keeps open."""


@dataclass(frozen=True)
class CacheHeader:
    """What a cache depends on, and what it holds.

    Attributes:
        teacher, reading: as ``laid.teacher_cache.cache_identity`` gives them.
        layers, logits, every_query: what it holds, as ``Wanted``; keys are those of all tokens.
        stored_as: in which numbers.
        entries_per_shard: of every shard but the last.
    """

    FORMAT: ClassVar[Json] = {"laid_teacher_cache": 1}

    teacher: Json
    reading: Json
    layers: tuple[int, ...]
    logits: bool
    every_query: bool
    stored_as: str
    entries_per_shard: int

    def __post_init__(self) -> None:
        if self.stored_as not in (known := get_args(StoredAs)):
            raise UserError(f"stored_as is {self.stored_as!r}, expected one of {known}")
        if self.entries_per_shard < 1:
            raise UserError(f"entries_per_shard is {self.entries_per_shard}, expected 1 or more")

    @property
    def wanted(self) -> Wanted:
        """What it holds, as it was asked for."""
        return Wanted(self.layers, self.logits, self.every_query)

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


@dataclass(frozen=True)
class ShardIndex:
    """The entries of a shard, in order, how many tokens each has, and ``CacheHeader.key`` of the
    cache that it is of."""

    FORMAT: ClassVar[Json] = {"laid_teacher_shard": 1}

    cache: str
    ids: tuple[str, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class EntrySignals:
    """What a teacher says of one entry, as a batch of one.

    Attributes:
        question: tokens after the last image, the answer among them.
    """

    id: str
    tokens: int
    question: int
    signals: Signals


def _opener() -> Callable[[Path], Any]:
    return lru_cache(_OPEN)(partial(safe_open, framework="pt"))


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
    _opened: Callable[[Path], Any] = field(default_factory=_opener, repr=False, compare=False)

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
        folder.mkdir(parents=True, exist_ok=True)
        # Not the folder itself, which is locked for what is written into it.
        with locked(folder.absolute().parent):
            if not (folder / HEADER).is_file():
                names = {path.name for path in folder.iterdir() if path.name[0] != "."}
                if other := names - {TEACHER, SHARDS}:
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
        """The folder of the teacher's configuration."""
        return self.folder / TEACHER

    @property
    def shards(self) -> range:
        """Numbers of its shards."""
        return range(-(-self.header.entries // self.header.entries_per_shard))

    def place(self, shard: int) -> Path:
        """The folder of a shard."""
        return self.folder / SHARDS / f"{shard:05d}"

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
        place = self.place(shard)
        return is_whole(place) and self.index(shard).cache == self.header.key

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
                f"{self.mend}"
            )

    def write(self, shard: int, entries: Sequence[EntrySignals]) -> None:
        """Writes a shard, unless another process has.

        Raises:
            OSError: it can't be written.
        """
        tensors: dict[str, Tensor] = {}
        stored_as = self.header.stored_as
        for n, entry in enumerate(entries):
            first = 0 if self.header.every_query else entry.tokens - entry.question
            for layer, qk in entry.signals.qk.items():
                tensors |= packed(f"{n}.{layer}.q", qk.q[0, first:], stored_as)
                tensors |= packed(f"{n}.{layer}.k", qk.k[0], stored_as)
            if (logits_NV := entry.signals.logits_NV) is not None:
                half = stored_as == "bfloat16"
                tensors[f"{n}.logits"] = logits_NV.to(torch.bfloat16) if half else logits_NV
        content = save({name: x.contiguous().cpu() for name, x in tensors.items()})
        index = ShardIndex(
            self.header.key, tuple(e.id for e in entries), tuple(e.tokens for e in entries)
        )

        def fill(new: Path) -> None:
            (new / _SIGNALS).write_bytes(content)
            (new / _INDEX).write_text(json.dumps(to_json(index)), encoding="utf-8")

        place = self.place(shard)
        if is_whole(place) and not self.has(shard):
            discard(place)
        cached_folder(place, fill)

    def index(self, shard: int) -> ShardIndex:
        """What is in a shard.

        Raises:
            UserError: it can't be read.
        """
        path = self.place(shard) / _INDEX
        try:
            return from_json(ShardIndex, read_json(path))
        except UserError as reason:
            raise UserError(f"{path}: {reason}") from reason

    def read(self, shard: int, n: int, wanted: Wanted) -> Signals:
        """The signals of a shard's entry number ``n``: ``q_LHD``, of the last tokens where not all
        are held, ``k_LKD`` and ``logits_NV``.

        Raises:
            UserError: they can't be read.
        """
        path = self.place(shard) / _SIGNALS
        try:
            tensor = self._opened(path).get_tensor
            qk = {
                layer: QK(
                    *(unpacked(tensor, f"{n}.{layer}.{x}", self.header.stored_as) for x in "qk")
                )
                for layer in wanted.layers
            }
            return Signals(qk, tensor(f"{n}.logits") if wanted.logits else None)
        except (OSError, SafetensorError) as reason:
            raise UserError(f"cannot read {path}: {reason}. {self.mend}") from reason

    @property
    def mend(self) -> str:
        """How to make again what is missing or damaged."""
        return (
            f"`laid cache --out {self.folder}` with the settings that it was begun with makes "
            "what is missing or damaged and keeps the rest"
        )
