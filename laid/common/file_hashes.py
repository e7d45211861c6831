"""SHA-256 of files, which are read once: later calls compare size, times and inode."""

import functools
import hashlib
import json
import logging
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from laid.common.atomic_files import locked
from laid.common.cached_files import cache_root, load_cached, save_cached

log = logging.getLogger(__name__)

_SETTLED_S = 2.0
"""A file that was changed less long ago is read again next time: a second change might fall on the
same tick of the file system's clock."""
_LARGE = 2**30
_THREADS = 4
_SHA256 = re.compile("[0-9a-f]{64}")


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hashes(paths: Iterable[Path]) -> list[str]:
    """Hexadecimal SHA-256 of each file, in order.

    A file is read once; afterwards its hash is taken from the cache, as long as its path, size,
    inode and times of change stay. One process reads a folder, and others that ask for the same
    wait for it. A large file of the Hugging Face cache has its SHA-256 as its name and is not read.

    Raises:
        OSError: a file cannot be read.
    """
    real = functools.cache(os.path.realpath)
    files = [
        Path(os.path.realpath(path) if path.is_symlink() else f"{real(path.parent)}/{path.name}")
        for path in paths
    ]
    by_folder: dict[Path, set[str]] = defaultdict(set)
    for file in files:
        by_folder[file.parent].add(file.name)
    found = {folder: _of_folder(folder, names) for folder, names in sorted(by_folder.items())}
    return [found[file.parent][file.name] for file in files]


def _of_folder(folder: Path, names: set[str]) -> dict[str, str]:
    hub = folder.name == "blobs" and (folder.parent / "snapshots").is_dir()
    named = {name: name for name in names if hub and _SHA256.fullmatch(name)}
    if len(named) == len(names):
        return named
    saved = cache_root() / "hashes" / hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
    with locked(folder):
        lasting = _known(saved)
        stamps = {name: _stamp(folder / name) for name in sorted(names - named.keys())}
        unread = [name for name, stamp in stamps.items() if lasting.get(name, [])[1:] != stamp]
        if (size := sum(stamps[name][0] for name in unread)) > _LARGE:
            log.info("reading %.1f GiB of %s once, for its checksums", size / 2**30, folder)
        begun = time.time()
        with ThreadPoolExecutor(_THREADS) as pool:
            hashes = pool.map(sha256_of, [folder / name for name in unread])
            read = dict(zip(unread, hashes, strict=True))
        for name in unread:
            settled = begun - max(stamps[name][1:3]) / 1e9 > _SETTLED_S
            if settled and _stamp(folder / name) == stamps[name]:
                lasting[name] = [read[name], *stamps[name]]
        if lasting.keys() & read.keys():
            with suppress(OSError):  # a cache that can't be written: they are read again
                save_cached(saved, json.dumps(lasting).encode())
    return named | {name: read.get(name) or lasting[name][0] for name in stamps}


def _known(saved: Path) -> dict[str, list[Any]]:
    """By file name: SHA-256, then what ``_stamp`` said."""
    content = load_cached(saved)
    known: dict[str, list[Any]] = {} if content is None else json.loads(content)
    return known


def _stamp(file: Path) -> list[int]:
    """Size, times and inode. The time of the last change of any kind cannot be set at will, unlike
    the time of the last write, which copies often keep."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
