"""Reads the files of checkpoints: none can run code, and a damaged one is refused."""

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch
from torch.distributed.checkpoint.api import CheckpointException

from laid.common.errors import UserError
from laid.common.stopping import Stopped

META = "meta.pt"
"""Of a checkpoint that is a folder, the file with all but the tensors."""
FILES = "files"
"""In it, the key of the sizes of the folder's other files."""
INDEX = "index"
"""In it, the key of the index of the shards (``laid.checkpoints.shard_index``)."""

_STORAGE = re.compile(r"[^/]+/data/(\d+)")


@contextmanager
def refusing_damage(path: Path) -> Iterator[None]:
    """Turns whatever a reader raises into a sentence about the checkpoint: torch's raise any class
    where a file does not hold what they expect.

    Raises:
        UserError: the block failed.
    """
    try:
        yield
    except (Exception, CheckpointException) as error:
        reason = first_failure(error)
        if str(reason).startswith(f"checkpoint {path} "):
            raise
        raise UserError(f"checkpoint {path} cannot be read: {_explain(reason)}") from reason


def first_failure(error: BaseException) -> BaseException:
    """What went wrong, where ``torch.distributed.checkpoint`` says what did on each rank.

    Raises:
        Stopped: a rank was asked to stop, which is no failure.
    """
    if not isinstance(error, CheckpointException):
        return error
    reason: BaseException = next(iter(error.failures.values()))[0]
    if isinstance(reason, Stopped):
        raise reason
    return reason


def _explain(reason: BaseException) -> str:
    if isinstance(reason, UserError):
        return str(reason)
    if isinstance(reason, UnpicklingError):
        return "it is not one that laid wrote; only tensors and plain data are unpickled"
    return "it is damaged or not a checkpoint"


def load_plain(file: Path) -> Any:
    """The content of a file that ``torch.save`` wrote: tensors and plain data, nothing else.

    Every byte is compared with the checksums (CRC-32) that ``torch.save`` wrote beside it, which
    torch itself does not read; in passing, so that the file is read once.
    """
    return _load(file, mmap=False, checked=lambda number: True)[0]


def load_mapped(file: Path, checked: Callable[[int], bool] = lambda number: False) -> Any:
    """As ``load_plain``, with tensors left on disk until they are used.

    Args:
        checked: which storages to check at once, by their numbers in the file. The others are
            checked by ``check_mapped`` or not at all.
    """
    return _load(file, mmap=True, checked=checked)[0]


def load_mapped_part(file: Path, part: str) -> dict[str, Any]:
    """As ``load_mapped``, with the tensors of one part checked."""
    content, sums = _load(file, mmap=True, checked=lambda number: False)
    storages = [tensor.untyped_storage() for tensor in _tensors(content[part])]
    for place, storage in {one.data_ptr(): one for one in storages if one.nbytes()}.items():
        _compare(storage, sums[place], file)
    return dict(content)


def _load(
    file: Path, mmap: bool, checked: Callable[[int], bool]
) -> tuple[Any, dict[int, zipfile.ZipInfo]]:
    """The content, and what the archive says of each storage, by where this is in memory."""
    records = _records(file)
    places: dict[int, zipfile.ZipInfo] = {}
    seen = count()

    def place(storage: Any, location: str) -> Any:
        if storage.nbytes():  # torch numbers storages as they occur, and reads them in that order
            number = next(seen)
            places[storage.data_ptr()] = records[number]
            if checked(number):
                _compare(storage, records[number], file)
        return storage

    content = torch.load(file, map_location=place, mmap=mmap, weights_only=True)
    return content, places


def _records(file: Path) -> list[zipfile.ZipInfo]:
    """The archive's entries of storages, by number; all other entries are read and checked."""
    storages = []
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if found := _STORAGE.fullmatch(entry.filename):
                if entry.file_size:
                    storages.append((int(found[1]), entry))
            else:
                archive.read(entry)
    return [entry for _, entry in sorted(storages, key=lambda one: one[0])]


def _compare(storage: torch.UntypedStorage, entry: zipfile.ZipInfo, file: Path) -> None:
    content = torch.empty(0, dtype=torch.uint8).set_(storage)
    if entry.file_size != storage.nbytes() or zlib.crc32(content.numpy().data) != entry.CRC:
        raise UserError(f"it is damaged: {entry.filename} of {file.name} has another checksum")


def _tensors(content: Any) -> Iterator[torch.Tensor]:
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _tensors(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _tensors(value)


def fingerprint(stream: IO[bytes], check: bool = False) -> int:
    """What tells one file of ``torch.save`` from another: its checksums' checksum.

    Args:
        check: whether to compare all that it holds with its checksums.

    Raises:
        zipfile.BadZipFile: something is damaged.
    """
    with zipfile.ZipFile(stream) as archive:
        if check and (name := archive.testzip()):
            raise zipfile.BadZipFile(name)
        entries = [(entry.filename, entry.CRC) for entry in archive.infolist()]
    return zlib.crc32(repr(entries).encode())


def read_meta(path: Path) -> dict[str, Any]:
    """A checkpoint without reading its tensors: a file is memory-mapped, of a folder it is META.

    Raises:
        UserError: it is damaged, or not a checkpoint of laid.
    """
    with refusing_damage(path):
        if not path.is_dir():
            return _dictionary(load_mapped(path))
        foreign = sorted(file.name for file in path.glob("*.metadata"))
        if foreign:
            raise UserError(
                f"it has a {foreign[0]}, a pickle that can run code when it is read. laid writes "
                "none; remove it if you know where it came from"
            )
        content = _dictionary(load_plain(path / META))
        if INDEX not in content:
            raise UserError(f"its {META} has no index; it is not of this version of laid")
        for name, size in content[FILES].items():
            if (path / name).stat().st_size != size:
                raise UserError(f"{name} has not the size it was written with")
        return content


def _dictionary(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError("it holds no settings of a run")
    return content
