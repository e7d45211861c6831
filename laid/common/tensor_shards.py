"""Tensors of named items on disk, some items to a shard.

    FOLDER/SHARD/index.json            ids and numbers of its items, in order
    FOLDER/SHARD/tensors.safetensors   "0.NAME" and so on of the first, "1.NAME" of the second, ...
    FOLDER/SHARD/manifest.json         SHA-256 of the two

A shard is a folder that appears whole, so processes may write side by side, and what is damaged is
known. All names are relative: the folder may be moved. Tensors are mapped into memory and read when
asked for.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from laid.common.atomic_files import discard
from laid.common.cached_folders import cached_folder, is_whole
from laid.common.errors import UserError
from laid.common.json_codec import Json, from_json, to_json
from laid.common.json_files import read_json

_INDEX, TENSORS = "index.json", "tensors.safetensors"
_OPEN = 64
"""Shards that a process keeps open."""


@dataclass(frozen=True)
class Item:
    """One item.

    Attributes:
        numbers: what is known of it without reading its tensors.
    """

    id: str
    numbers: tuple[int, ...]
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class ShardIndex:
    """The items of a shard, in order, and the key of the folder that it was written for."""

    FORMAT: ClassVar[Json] = {"laid_tensor_shard": 1}

    key: str
    ids: tuple[str, ...]
    numbers: tuple[tuple[int, ...], ...]


_PAGE = 4096
"""No page of memory has fewer bytes: one read in each brings all of them."""


def _opener() -> Callable[[Path], Any]:
    return lru_cache(_OPEN)(partial(safe_open, framework="pt"))


@dataclass(frozen=True)
class TensorShards:
    """A folder of shards.

    Attributes:
        key: of what the tensors depend on; a shard of another key is not taken.
        advice: how to make again what can't be read.
    """

    folder: Path
    key: str
    advice: str
    _opened: Callable[[Path], Any] = field(default_factory=_opener, repr=False, compare=False)

    def __reduce__(self) -> Any:
        return type(self), (self.folder, self.key, self.advice)  # what is open stays here

    def place(self, shard: str) -> Path:
        return self.folder / shard

    def has(self, shard: str) -> bool:
        """Whether a shard is there, whole, and of this key."""
        return is_whole(self.place(shard)) and self.index(shard).key == self.key

    def write(self, shard: str, items: Sequence[Item]) -> None:
        """Writes a shard, unless another process has.

        Raises:
            OSError: it can't be written.
        """
        named = {
            f"{n}.{name}": x.detach().contiguous().cpu()
            for n, item in enumerate(items)
            for name, x in item.tensors.items()
        }
        content = save(named)
        index = ShardIndex(self.key, tuple(i.id for i in items), tuple(i.numbers for i in items))

        def fill(new: Path) -> None:
            (new / TENSORS).write_bytes(content)
            (new / _INDEX).write_text(json.dumps(to_json(index)), encoding="utf-8")

        place = self.place(shard)
        if is_whole(place) and not self.has(shard):
            discard(place)
        cached_folder(place, fill)

    def index(self, shard: str) -> ShardIndex:
        """What is in a shard.

        Raises:
            UserError: it can't be read.
        """
        path = self.place(shard) / _INDEX
        try:
            return from_json(ShardIndex, read_json(path))
        except UserError as reason:
            raise UserError(f"{path}: {reason}") from reason

    def read_ahead(self, shard: str, n: int) -> None:
        """Brings a shard's item number ``n`` into the operating system's page cache, for another
        process. What can't be read is left for that to say."""
        with suppress(OSError, SafetensorError):
            opened = self._opened(self.place(shard) / TENSORS)
            for name in opened.keys():  # noqa: SIM118  # it is no dictionary
                if name.startswith(f"{n}."):
                    opened.get_tensor(name).reshape(-1).view(torch.uint8)[::_PAGE].sum()

    def reader(self, shard: str, n: int) -> Callable[[str], Tensor]:
        """Gives tensors, by name, of a shard's item number ``n``, and raises ``UserError`` where
        one can't be read."""
        path = self.place(shard) / TENSORS

        def read(name: str) -> Tensor:
            try:
                tensor: Tensor = self._opened(path).get_tensor(f"{n}.{name}")
                return tensor
            except (OSError, SafetensorError) as reason:
                raise UserError(f"cannot read {path}: {reason}. {self.advice}") from reason

        return read
