"""Reads the files of checkpoints: none can run code, and a damaged one is refused."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException

from laid.common.errors import UserError

META = "meta.pt"
"""Of a checkpoint that is a folder, the file with all but the tensors."""
FILES = "files"
"""In it, the key of the sizes of the folder's other files."""
INDEX = "index"
"""In it, the key of the index of the shards (``laid.checkpoints.shard_index``)."""

_DAMAGE = (
    AssertionError, AttributeError, CheckpointException, EOFError, IndexError, KeyError, OSError,
    OverflowError, RecursionError, RuntimeError, TypeError, UnpicklingError, ValueError,
    zipfile.BadZipFile,
)  # fmt: skip
"""What torch's readers raise where a file does not hold what they expect."""


@contextmanager
def refusing_damage(path: Path) -> Iterator[None]:
    """Turns whatever a reader raises into a sentence about the checkpoint.

    Raises:
        UserError: the block failed.
    """
    try:
        yield
    except _DAMAGE as reason:
        if str(reason).startswith(f"checkpoint {path} "):
            raise
        raise UserError(f"checkpoint {path} cannot be read: {_explain(reason)}") from reason


def _explain(reason: BaseException) -> str:
    if isinstance(reason, CheckpointException):  # of what happened on each rank
        reason = next(iter(reason.failures.values()))[0]
    if isinstance(reason, UserError):
        return str(reason)
    if isinstance(reason, UnpicklingError):
        return "it is not one that laid wrote; only tensors and plain data are unpickled"
    return "it is damaged or not a checkpoint"


def load_plain(file: Path, mmap: bool = False) -> Any:
    """The content of a file that ``torch.save`` wrote: tensors and plain data, nothing else.

    Args:
        mmap: leave the tensors on disk until they are used.
    """
    return torch.load(file, map_location="cpu", mmap=mmap, weights_only=True)


def read_meta(path: Path) -> dict[str, Any]:
    """A checkpoint without reading its tensors: a file is memory-mapped, of a folder it is META.

    Raises:
        UserError: it is damaged, or not a checkpoint of laid.
    """
    with refusing_damage(path):
        if not path.is_dir():
            return _dictionary(load_plain(path, mmap=True))
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
