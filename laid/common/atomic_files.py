"""Files and folders that are either whole or not there."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of ``path`` when the block ends without an error.

    Until then, and if the block fails or the process dies, ``path`` stays as it was. Missing
    folders are made.

    Raises:
        OSError: the folder cannot be made or written; no temporary file stays behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        # Opened by name and not by `tempfile`, whose files nobody else may read.
        with temporary.open("wb") as file:
            yield file
            file.flush()
            # Without this a power cut can leave the new name pointing at an empty file.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path``: readers see the old file or all of the new (``replacing``)."""
    with replacing(path) as file:
        file.write(data)


def atomic_write_text(path: str | Path, text: str) -> None:
    """``atomic_write_bytes`` for text, in UTF-8."""
    atomic_write_bytes(path, text.encode("utf-8"))


@contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """Fill the folder this yields; on leaving without an error it takes the name ``path``.

    Where two processes build the same folder, the first to finish keeps the name and the other's
    work is thrown away: both must therefore build the same content. An error inside the block
    leaves nothing behind.

    Raises:
        OSError: the folder cannot be made or renamed, or ``path`` is a file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        try:
            os.rename(temporary, path)
        except OSError:
            # A folder with something in it already bears the name: somebody else was faster.
            if not (path.is_dir() and any(path.iterdir())):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def discard_dir(path: str | Path) -> None:
    """Remove a folder, first from sight (one rename) and then from the disk; absent is fine."""
    path = Path(path)
    doomed = _beside(path)
    with suppress(FileNotFoundError):
        os.rename(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def discard(path: str | Path) -> None:
    """Remove a file or a folder (``discard_dir``); absent is fine."""
    path = Path(path)
    if path.is_dir():
        discard_dir(path)
    else:
        path.unlink(missing_ok=True)


def leftovers(folder: Path) -> list[Path]:
    """Temporary files and folders of processes that died while they wrote or removed something."""
    return list(folder.glob(".*.tmp"))


def _beside(path: Path) -> Path:
    """A name no other process uses, in the same folder: a rename never crosses a file system."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
