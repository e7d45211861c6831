"""Where each piece of a sharded checkpoint's tensors lies, as plain data.

``torch.distributed.checkpoint`` (DCP) keeps this in ``.metadata``, a pickle that may run any code
when it is read, and reads what is no tensor with ``weights_only=False``. laid keeps the index in
meta.pt instead, never reads a ``.metadata``, and gives DCP a reader and a planner of its own.
"""

import io
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, Metadata, ReadItem
from torch.distributed.checkpoint._nested_dict import set_element
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from laid.checkpoints.checkpoint_files import fingerprint
from laid.common.errors import UserError

_FILE = re.compile(r"__\d+_\d+\.distcp")

Index = dict[str, dict[str, Any]]
"""By flattened name: ``path``, its keys in the nested state; of a tensor ``dtype`` and ``size``;
``pieces``, each ``(offsets, sizes, file, first byte, bytes, fingerprint)``."""


def index_of(metadata: Metadata, prints: Mapping[tuple[str, int], int]) -> Index:
    """The index of what DCP has just written.

    Args:
        prints: fingerprint of each piece, by file and first byte (``fingerprints``).
    """
    found: Index = {}
    for name, stored in metadata.state_dict_metadata.items():
        entry: dict[str, Any] = {"path": tuple(metadata.planner_data[name])}
        places: list[tuple[Any, Any]] = [(None, None)]
        if isinstance(stored, TensorStorageMetadata):
            entry |= {"dtype": stored.properties.dtype, "size": tuple(stored.size)}
            places = [(tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in stored.chunks]
        pieces = []
        for offsets, sizes in places:
            at = metadata.storage_data[MetadataIndex(name, offsets)]
            place = (at.relative_path, at.offset)
            pieces.append((offsets, sizes, *place, at.length, prints[place]))
        found[name] = entry | {"pieces": pieces}
    return found


def fingerprints(folder: Path, metadata: Metadata, rank: int) -> dict[tuple[str, int], int]:
    """Fingerprints of the pieces that a rank wrote; of each the end alone is read."""
    found = {}
    for at in metadata.storage_data.values():
        if at.relative_path.startswith(f"__{rank}_"):
            with (folder / at.relative_path).open("rb") as file:
                piece = io.BufferedReader(_Window(file, at.offset, at.length))
                found[at.relative_path, at.offset] = fingerprint(piece)
    return found


def metadata_of(index: Index, files: dict[str, int]) -> Metadata:
    """DCP's own form of an index.

    Args:
        index: as ``index_of`` made it, read back from a file that need not be trusted.
        files: sizes in bytes of the files that pieces may lie in.

    Raises:
        UserError: it is not such an index, or does not fit the files.
    """
    found = Metadata({}, planner_data={}, storage_data={}, storage_meta=StorageMeta())
    try:
        for name, stored in index.items():
            dtype = stored.get("dtype")
            found.planner_data[name] = tuple(stored["path"])
            chunks, elements = [], 0
            for offsets, sizes, file, first, length, printed in stored["pieces"]:
                _check(_FILE.fullmatch(file) and 0 <= first < first + length <= files[file])
                place = CheckedPiece(file, first, length, fingerprint=int(printed))
                found.storage_data[MetadataIndex(name, offsets)] = place
                if dtype is not None:
                    _check(length >= math.prod(sizes) * dtype.itemsize)
                    elements += math.prod(sizes)
                    chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
            if dtype is None:
                found.state_dict_metadata[name] = BytesStorageMetadata()
                continue
            size = torch.Size(stored["size"])
            _check(elements == size.numel())
            properties = TensorProperties(dtype=dtype)
            found.state_dict_metadata[name] = TensorStorageMetadata(properties, size, chunks)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as reason:
        raise UserError("its index does not fit its files") from reason
    return found


class _Window(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, file: IO[bytes], first: int, length: int):
        self._file, self._first, self._length, self._at = file, first, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise OSError("before the beginning")  # zipfile looks whether there is a comment
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._first + self._at)
        content = self._file.read(max(0, min(len(buffer), self._length - self._at)))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


@dataclass
class CheckedPiece(_StorageInfo):
    """Where a piece lies, and what it must be."""

    fingerprint: int = 0


class ShardReader(FileSystemReader):
    """Reads pieces by an index that is known, and no ``.metadata``; each must be as it was
    written."""

    def __init__(self, path: Path, metadata: Metadata):
        super().__init__(path)
        self._known = metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self._known

    def _slice_file(self, file: IO[bytes], sinfo: _StorageInfo) -> IO[bytes]:
        assert isinstance(sinfo, CheckedPiece)
        # Read once: checked and unpickled from memory.
        file.seek(sinfo.offset)
        piece = io.BytesIO(file.read(sinfo.length))
        try:
            whole = fingerprint(piece, check=True) == sinfo.fingerprint
        except zipfile.BadZipFile:
            whole = False
        if not whole:
            raise UserError(f"it is damaged: {sinfo.relative_path} is not as it was written")
        piece.seek(0)
        return piece


class PlainLoadPlanner(DefaultLoadPlanner):
    """DCP's planner, which unpickles nothing but plain data and tensors."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        content = torch.load(value, map_location="cpu", weights_only=True)
        set_element(self.original_state_dict, self.mappings[read_item.dest_index.fqn], content)


def _check(holds: Any) -> None:
    if not holds:
        raise ValueError
