"""Folders that can be made again, each with the checksums of its files."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

from laid.common.atomic_files import atomic_dir
from laid.common.file_hashes import file_hashes, sha256_of

log = logging.getLogger(__name__)

_MANIFEST = "manifest.json"


def cached_folder(folder: Path, fill: Callable[[Path], object]) -> None:
    """Makes ``folder``, unless it is there as it was made: name and files, byte for byte.

    What was damaged or swapped is made again, and this is logged; processes may race for it.

    Args:
        fill: writes the files into the folder that it is given.

    Raises:
        OSError: it can't be written.
    """
    if is_whole(folder):
        return
    if folder.exists():
        log.warning("%s is not as it was made: it is made again", folder)
    with atomic_dir(folder, lambda there: not is_whole(there)) as temporary:
        fill(temporary)
        hashes = {name: sha256_of(temporary / name) for name in _names(temporary)}
        content = {"folder": folder.name, "sha256": hashes}
        (temporary / _MANIFEST).write_text(json.dumps(content, indent=1), encoding="utf-8")


def is_whole(folder: Path) -> bool:
    """Whether ``cached_folder`` made it and no byte has changed since; its files are read once
    (``laid.common.file_hashes``)."""
    try:
        recorded = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        names = _names(folder)
        hashes = dict(zip(names, file_hashes(folder / name for name in names), strict=True))
        return bool(recorded == {"folder": folder.name, "sha256": hashes})
    except (OSError, RecursionError, ValueError):
        return False


def folder_files(folder: Path) -> list[Path]:
    """The files of a folder that is whole, that of its checksums among them."""
    return [folder / name for name in [*_names(folder), _MANIFEST]]


def _names(folder: Path) -> list[str]:
    found = (
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in os.walk(folder)
        for name in names
    )
    return sorted(name for name in found if name != _MANIFEST)
