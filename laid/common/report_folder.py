"""A folder with a report, which an earlier report leaves as a whole."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from laid.common.atomic_files import atomic_dir, only_writer
from laid.common.errors import UserError


@contextmanager
def report_folder(out: str, of_a_report: re.Pattern[str]) -> Iterator[Path]:
    """Fill the folder this yields; on leaving without an error it takes the name ``out``.

    An earlier report there is replaced; other files stay.

    Args:
        of_a_report: names of all files that a report may have.

    Raises:
        UserError: ``out`` is a file, there are folders in it, or another process writes it.
    """
    target = Path(out).resolve()
    _others(target, of_a_report)
    with only_writer(target), atomic_dir(target, replaces=lambda there: True) as folder:
        yield folder
        for file in _others(target, of_a_report):
            shutil.copy2(file, folder, follow_symlinks=False)


def _others(folder: Path, of_a_report: re.Pattern[str]) -> list[Path]:
    """The files in ``folder`` that are of no report."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file: name a folder for the report")
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    if inside := [path.name for path in found if path.is_dir()]:
        raise UserError(
            f"--out {folder} holds other folders ({inside[0]}): name a folder for the report alone"
        )
    return [path for path in found if not of_a_report.fullmatch(path.name)]
