"""File names read from somebody's annotation or question file: they may name images, no more."""

import functools
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from laid.common.errors import UserError
from laid.common.printable import HALF

# "/etc/passwd", "\\server\share" and "C:\..." on whatever system we run.
_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:")
_OF_SOURCE = "::"  # after the source in the name of an image of one


def clean_name(root: str | Path, name: str) -> str:
    """``name`` in its shortest spelling with forward slashes: ``./a/../b\\c`` is ``b/c``.

    Decided by the spelling alone: links under ``root`` were put there by the owner of the disk,
    who may keep the images elsewhere, while the name comes from whoever wrote the file.

    Raises:
        UserError: the name is not a string, is empty or absolute, or leads out of ``root``, or it
            can't be written as UTF-8.
    """
    if isinstance(name, str) and HALF.search(name):
        raise UserError(f"the file name {name!a} is not UTF-8: rename the file.")
    if isinstance(name, str) and name and "\0" not in name and not _ABSOLUTE.match(name):
        clean = posixpath.normpath(name.replace("\\", "/"))
        if clean != "." and clean.split("/", 1)[0] != "..":
            return clean
    raise UserError(
        f"the file name {name!r} does not stay below {str(root)!r}. Names must be relative to "
        "that folder, such as 'val2017/000000000139.jpg'."
    )


@dataclass(frozen=True)
class ImageRoots:
    """Several folders of images, for entries of several sources.

    Attributes:
        root: that of names without a source, which is COCO's.
        folders: by source, that of the names that ``of_source`` makes.
    """

    root: Path
    folders: Mapping[str, Path] = field(default_factory=dict)

    def split(self, name: str) -> tuple[Path, str]:
        """The folder of an image, and its name in it."""
        source, _, below = name.partition(_OF_SOURCE)
        return (self.folders[source], below) if source in self.folders else (self.root, name)


def of_source(source: str, name: str) -> str:
    """What an entry calls the image ``name`` in the folder of ``source``.

    Raises:
        UserError: the source's name can't begin a name.
    """
    if _OF_SOURCE in source:
        raise UserError(f"source {source!r}: expected a name without {_OF_SOURCE!r}; rename it")
    return f"{source}{_OF_SOURCE}{name}"


def without_source(name: str) -> str:
    """The name in its source's folder."""
    return name.partition(_OF_SOURCE)[2]


def resolve_under(root: str | Path | ImageRoots, name: str) -> Path:
    """The path of ``name`` below ``root``; raises like ``clean_name``."""
    if isinstance(root, ImageRoots):
        root, name = root.split(name)
    return Path(root) / clean_name(root, name)


def check_present(root: str | Path, names: Iterable[str], source: str) -> None:
    """Make sure that images are on the disk, by one listing a folder.

    Args:
        root: the folder that ``names`` are relative to.
        names: clean names.
        source: what names them, for the message.

    Raises:
        UserError: some are not there; says how many, and what is there under another spelling.
    """
    listing = functools.cache(lambda folder: _listing(Path(root) / folder))
    wanted = sorted(set(names))
    missing = [
        name
        for name in wanted
        if posixpath.basename(name) not in listing(posixpath.dirname(name))
        # On a file system that ignores case, the listing may spell it otherwise.
        and not os.path.exists(os.path.join(root, name))
    ]
    if not missing:
        return
    shown = f"{len(missing)} of the {len(wanted)} images of {source} are not in {root}, such as "
    shown += ", ".join(missing[:3])
    if similar := _similar(Path(root), missing[0]):
        shown += f"; {similar!r} is there"
    else:
        folder = (Path(root) / missing[0]).parent
        there = sorted(_listing(folder))
        shown += f"; {folder} "
        shown += f"holds {len(there)} files, such as {there[0]}" if there else "is empty or missing"
    raise UserError(f"{shown}. Names are relative to {root}, and spelled as the files are.")


def _listing(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(folder)}
    except OSError:
        return set()


def _similar(root: Path, name: str) -> str | None:
    """A file near by whose name differs in case, Unicode normal form or folder only."""

    def key(file: str) -> str:
        return unicodedata.normalize("NFC", file).casefold()

    folder, file = posixpath.split(name)
    last = posixpath.basename(folder)
    for near in (folder, posixpath.dirname(folder), posixpath.join(folder, last), last, ""):
        for found in sorted(_listing(root / near)):
            if key(found) == key(file):
                return posixpath.join(near, found)
    return None
