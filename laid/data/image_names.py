"""File names read from somebody's annotation or question file: they may name images, no more."""

import posixpath
import re
from pathlib import Path

from laid.common.errors import UserError

# "/etc/passwd", "\\server\share" and "C:\..." on whatever system we run.
_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:")


def clean_name(root: str | Path, name: str) -> str:
    """``name`` in its shortest spelling with forward slashes: ``./a/../b\\c`` is ``b/c``.

    Decided by the spelling alone: links under ``root`` were put there by the owner of the disk,
    who may keep the images elsewhere, while the name comes from whoever wrote the file.

    Raises:
        UserError: the name is not a string, is empty or absolute, or leads out of ``root``.
    """
    if isinstance(name, str) and name and "\0" not in name and not _ABSOLUTE.match(name):
        clean = posixpath.normpath(name.replace("\\", "/"))
        if clean != "." and clean.split("/", 1)[0] != "..":
            return clean
    raise UserError(
        f"the file name {name!r} does not stay below {str(root)!r}. Names must be relative to "
        "that folder, such as 'val2017/000000000139.jpg'."
    )


def resolve_under(root: str | Path, name: str) -> Path:
    """The path of ``name`` below ``root``; raises like ``clean_name``."""
    return Path(root) / clean_name(root, name)
