"""What says that a model folder is an export of laid: a file with the checksums of all others.

With it, an export can be replaced by another without the risk that it is somebody's own folder, and
damage is found when the weights are read.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from laid.common.errors import UserError
from laid.common.file_hashes import file_hashes, sha256_of

MARKER = "laid_export.json"
CARD = "README.md"
"""The model card: people complete it, so it may change."""
_FORMAT = 1


def mark_export(folder: Path, source: str) -> None:
    """Writes the marker beside the files of a finished export.

    Args:
        source: what the weights were made from, for people.
    """
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.is_file()}
    content = {"laid_export": _FORMAT, "source": source, "sha256": files}
    (folder / MARKER).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_replaceable(folder: Path, protected: Iterable[Path]) -> None:
    """Refuses to replace whatever is not an export of laid and nothing else.

    Args:
        folder: what is there.
        protected: files and folders that the export needs.

    Raises:
        UserError: it is not an export, holds files besides, or has one of ``protected`` in it.
    """
    there = folder.resolve()
    inside = next((path for path in protected if path.resolve().is_relative_to(there)), None)
    if inside is not None:
        raise UserError(f"{folder} is not replaced: {inside} is in it. Name another folder")
    if folder.is_dir() and not any(folder.iterdir()):
        return
    written = _read(folder)
    if written is None:
        raise UserError(
            f"{folder} is not replaced: it is not an export of laid (it has no {MARKER}). "
            "Name another folder, or remove it yourself"
        )
    besides = sorted({path.name for path in folder.iterdir()} - written.keys() - {MARKER})
    if besides:
        raise UserError(
            f"{folder} is not replaced: {besides[0]} in it is not of the export that laid wrote. "
            "Name another folder, or move the file"
        )


def exported_files(folder: Path) -> list[str]:
    """The names of an export's files, each of which was read again and is as it was written.

    Raises:
        UserError: it is not an export of laid, or a file is missing or not as it was written.
    """
    if (written := _read(folder)) is None:
        raise UserError(f"{folder} is not an export of laid: it has no {MARKER} that can be read")
    _compare(folder, written, lambda paths: map(sha256_of, paths))
    return list(written)


def check_export(folder: Path) -> None:
    """Compares the files of a model folder with its marker; a folder without one passes.

    Raises:
        UserError: a file is missing or not as it was written.
    """
    _compare(folder, _read(folder) or {}, file_hashes)


def _compare(
    folder: Path, written: dict[str, str], hashes: Callable[[list[Path]], Iterable[str]]
) -> None:
    if missing := [name for name in written if not (folder / name).is_file()]:
        raise UserError(f"the export {folder} is damaged: {missing[0]} is missing. Export it again")
    found = hashes([folder / name for name in written])
    for (name, sha256), now in zip(written.items(), found, strict=True):
        if now != sha256 and name != CARD:
            raise UserError(
                f"the export {folder} is damaged: {name} is not as it was written (its SHA-256 "
                f"differs from {MARKER}). Export it again, or remove {MARKER} if you changed it"
            )


def _read(folder: Path) -> dict[str, str] | None:
    """Checksums by file name; None where there is no marker of ours."""
    try:
        content: Any = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        if content["laid_export"] != _FORMAT:
            return None
        files = {str(name): str(sha256) for name, sha256 in content["sha256"].items()}
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError):
        return None
    # A marker speaks of its own folder only.
    return files if all(Path(name).name == name for name in files) else None
