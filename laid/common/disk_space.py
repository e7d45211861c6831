"""Space on a disk."""

import shutil
from pathlib import Path


def existing_folder(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.is_dir())


def free_bytes(path: Path) -> int:
    """What is free on the disk that a path is on, or will be."""
    return shutil.disk_usage(existing_folder(path)).free
