"""Files that can be made again, kept with checksums: one that is damaged or swapped counts as
missing."""

import hashlib
import logging
import os
from pathlib import Path

from laid.common.atomic_files import atomic_write_bytes

log = logging.getLogger(__name__)


def cache_root() -> Path:
    """The folder of everything that can be made again: ``$LAID_CACHE``, else ``~/.cache/laid``."""
    given = os.environ.get("LAID_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "laid"


def save_cached(path: Path, content: bytes) -> None:
    """Writes a file of the cache.

    Raises:
        OSError: it can't be written.
    """
    atomic_write_bytes(path, _seal(path, content) + content)


def load_cached(path: Path) -> bytes | None:
    """What ``save_cached`` wrote; None where it is missing or, which is logged, damaged."""
    try:
        sealed = path.read_bytes()
    except OSError:
        return None
    length = hashlib.sha256().digest_size
    if sealed[:length] == _seal(path, sealed[length:]):
        return sealed[length:]
    log.warning("%s is damaged: it is made again", path)
    return None


def _seal(path: Path, content: bytes) -> bytes:
    """Of name and content, since one file of the cache may be put in the place of another."""
    return hashlib.sha256(path.name.encode() + b"\0" + content).digest()
