"""Where derived files live, and whether they are still as they were written."""

import hashlib
import json
import os
from pathlib import Path

from laid.common.atomic_files import atomic_write_text

_MANIFEST = "manifest.json"


def cache_root() -> Path:
    """The folder of everything that can be made again: ``$LAID_CACHE``, else ``~/.cache/laid``."""
    given = os.environ.get("LAID_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "laid"


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
