"""Where derived files live, and how they are written so that no reader ever sees half of one."""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

_MANIFEST = "manifest.json"


def cache_root() -> Path:
    """The folder of everything that can be made again: ``$LAID_CACHE``, else ``~/.cache/laid``."""
    given = os.environ.get("LAID_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "laid"


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` (its folder is made): readers see the old file or all of the new.

    Raises:
        OSError: the folder cannot be made or written; no temporary file stays behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            # Without this a power cut can leave the new name pointing at an empty file.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_text(path: str | Path, text: str) -> None:
    """``atomic_write_bytes`` for text, in UTF-8."""
    atomic_write_bytes(path, text.encode("utf-8"))


@contextlib.contextmanager
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
    try:
        os.rename(path, doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)


def write_manifest(folder: Path) -> None:
    """Record the SHA-256 of every file in ``folder``, for ``manifest_holds`` to compare with."""
    text = json.dumps({name: sha256_of(folder / name) for name in _names(folder)}, indent=1)
    atomic_write_text(folder / _MANIFEST, text)


def manifest_holds(folder: Path) -> bool:
    """Whether ``folder`` holds exactly the files, byte for byte, that its manifest records."""
    try:
        recorded = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return bool(recorded == {name: sha256_of(folder / name) for name in _names(folder)})
    except (OSError, ValueError):
        return False


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _names(folder: Path) -> list[str]:
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in found if name != _MANIFEST)


def _beside(path: Path) -> Path:
    """A name no other process uses, in the same folder: a rename never crosses a file system."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
