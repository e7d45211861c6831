"""Space on a disk."""

import shutil
from pathlib import Path

from laid.common.errors import UserError


def existing_folder(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.is_dir())


def free_bytes(path: Path) -> int:
    """What is free on the disk that a path is on, or will be."""
    return shutil.disk_usage(existing_folder(path)).free


def not_written(what: object, reason: object, path: Path) -> UserError:
    """The error of a file that can't be written, with the room that its disk has left."""
    free = free_bytes(path) / 2**30
    return UserError(f"cannot write {what}: {reason}; {free:.1f} GiB are free on that disk")
