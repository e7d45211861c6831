"""Files and folders that are whole or not there, whenever the process dies.

What is written first has a temporary name beside its place, ``.NAME.HOST-PID-RANDOM.tmp``; it takes
its own name when it is whole. The name says which process writes, so that what a dead one left is
removed by the next that writes in the same folder, and a living one's is not.
"""

import ctypes
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from laid.common.errors import UserError

_OURS = re.compile(r"\.(?P<name>.+)\.(?P<host>[^.]+)-(?P<pid>\d+)-[0-9a-f]{32}\.(?P<kind>tmp|old)")
_DAY_S = 86_400
_swept: set[Path] = set()
_made: set[str] = set()
"""Names of this process: in a container the next process often has the number of the last."""


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of ``path`` when the block ends without an error.

    Until then, and if the block fails or the process dies, ``path`` stays as it was. Missing
    folders are made.

    Raises:
        OSError: the folder cannot be made or written; no temporary file stays behind.
    """
    path = Path(path)
    _prepare(path.parent)
    temporary = _beside(path)
    try:
        # Opened by name and not by `tempfile`, whose files nobody else may read.
        with temporary.open("wb") as file:
            yield file
            file.flush()
            # Without this a power cut can leave the new name pointing at an empty file.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        _name(error, path)
        raise
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
def atomic_dir(
    path: str | Path, replaces: Callable[[Path], bool] = lambda there: False
) -> Iterator[Path]:
    """Fill the folder this yields; on leaving without an error it takes the name ``path``.

    An error inside the block leaves nothing behind and ``path`` as it was.

    Args:
        replaces: asked at the end of a folder that has the name and is not empty: whether the new
            one takes its place. If not it stays, and the new one is thrown away: two processes
            that build the same cache keep the first.

    Raises:
        OSError: the folder cannot be made or renamed, or ``path`` is a file.
    """
    path = Path(path)
    _prepare(path.parent)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        with locked(path.parent):
            if not (path.is_dir() and any(path.iterdir())):
                os.rename(temporary, path)
            elif replaces(path):
                _sync(temporary)
                _exchange(temporary, path)
    except OSError as error:
        _name(error, path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def only_writer(path: str | Path) -> Iterator[None]:
    """Lets one process at a time write ``path``, a file or folder that takes long to make.

    Folders above it are made, and removed if nothing was written.

    Raises:
        UserError: another process that is alive writes it.
    """
    path = Path(path).resolve()
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    claim = _beside(path.with_name(f"{path.name}.claim"))
    with locked(path.parent):
        for other in _temporaries(path.parent):
            found = _OURS.fullmatch(other.name)
            if found and found["name"] == f"{path.name}.claim" and _alive(other):
                raise UserError(
                    f"{path} is being written by another process, {found['pid']} on "
                    f"{found['host']}: wait for its end or name another folder. If there is no "
                    f"such process, remove {other}"
                )
        with suppress(PermissionError):  # the folder may be writable, and not the one it is in
            claim.touch()
    try:
        yield
    finally:
        claim.unlink(missing_ok=True)
        with suppress(OSError):  # where something was written
            for parent in made:
                parent.rmdir()


def discard(path: str | Path) -> None:
    """Remove a file or a folder, this first from sight (one rename) and then from the disk;
    absent is fine."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        doomed = _beside(path)
        with suppress(FileNotFoundError):
            os.rename(path, doomed)
            shutil.rmtree(doomed, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def leftovers(folder: Path) -> list[Path]:
    """Temporary files and folders in ``folder`` of processes that have died."""
    return [path for path in _temporaries(folder) if not _alive(path)]


def sweep(folder: Path) -> None:
    """Removes what dead processes left in ``folder``, and gives a folder that one of them was
    replacing its name back."""
    with locked(folder):
        for path in leftovers(folder):
            found = _OURS.fullmatch(path.name)
            assert found is not None
            home = folder / found["name"]
            if found["kind"] == "old" and not home.exists():
                os.rename(path, home)
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _prepare(folder: Path) -> None:
    """Makes a folder, and sweeps it the first time that this process writes there."""
    folder.mkdir(parents=True, exist_ok=True)
    if (known := folder.resolve()) not in _swept:
        _swept.add(known)
        with suppress(OSError):
            sweep(folder)


def _name(error: OSError, path: Path) -> None:
    if error.errno is not None:  # else its message is what it was made with
        error.filename = error.filename or str(path)  # a full disk names none


def _exchange(new: Path, old: Path) -> None:
    """Gives the folder ``new`` the name of ``old``, and ``old`` that of ``new``, which is removed
    next: in one step where the system can, else with the old one aside in between."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        at_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        if libc.renameat2(at_cwd, os.fsencode(new), at_cwd, os.fsencode(old), exchange) == 0:
            return
    except (AttributeError, OSError, TypeError):  # not Linux
        pass
    aside = _beside(old, "old")
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except OSError:
        os.rename(aside, old)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Waits until what is in ``folder`` is on the disk: what it replaces is gone after that."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process of laid at a time is in this block with ``folder``, where the system can."""
    handle = None
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except (ImportError, OSError):  # not POSIX, or a file system without locks
        pass
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _beside(path: Path, kind: str = "tmp") -> Path:
    """A name no other process uses, in the same folder: a rename never crosses a file system."""
    name = f".{path.name}.{_host()}-{os.getpid()}-{uuid.uuid4().hex}.{kind}"
    _made.add(name)
    return path.with_name(name)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())


def _temporaries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(".*") if _OURS.fullmatch(path.name))


def _alive(path: Path) -> bool:
    """Whether the process that a temporary belongs to may still be writing it. Of another
    machine's that can't be known: it counts as dead after a day without a change."""
    found = _OURS.fullmatch(path.name)
    assert found is not None
    if found["host"] != _host():
        with suppress(OSError):
            return time.time() - path.stat().st_mtime < _DAY_S
        return False
    if int(found["pid"]) == os.getpid():
        return path.name in _made
    try:
        os.kill(int(found["pid"]), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's process
        return True
    return True
