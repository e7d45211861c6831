"""Entries that methods answer differently, and the pages of ``laid look`` that show them."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from laid.common.errors import UserError
from laid.common.tables import Cell, Table
from laid.comparison.methods import Answers
from laid.comparison.study import Study

MOST = 40
"""Rows of the table."""


class _Entry(NamedTuple):
    size: int
    id: str
    right: tuple[tuple[int, int], ...]  # of each method: seeds that were right, of how many

    @property
    def spread(self) -> float:
        shares = [right / seeds for right, seeds in self.right]
        return max(shares) - min(shares)


def disagreement_table(study: Study) -> Table | None:
    """The entries on which methods differ most: by the largest difference in the share of training
    seeds that were right. Of methods that were asked the same entries as the first one with
    records; None where fewer than two were."""
    known = [(m.title, m.answers) for m in study.rows if m.answers is not None]
    same = [(title, answers) for title, answers in known if answers.asked == known[0][1].asked]
    if len(same) < 2:
        return None
    found = [entry for entry in _entries([answers for _, answers in same]) if entry.spread > 0]
    found.sort(key=lambda entry: (-entry.spread, entry.size, entry.id))
    rows = []
    for entry in found[:MOST]:
        right = [Cell(f"{right} of {seeds}", right / seeds) for right, seeds in entry.right]
        rows.append([Cell(entry.id), Cell(str(entry.size), entry.size), *right])
    shown = f"the {MOST} with the largest difference of " if len(found) > MOST else ""
    notes = [
        f"How many training seeds were right: {shown}{len(found)} entries on which the methods "
        "differ. laid look --entry ID shows where models look in one."
    ]
    header = ["entry", "images", *(title for title, _ in same)]
    return Table("disagreements", "Where the methods disagree", header, rows, notes)


def _entries(of_methods: Sequence[Answers]) -> Iterator[_Entry]:
    for size, ids in of_methods[0].ids.items():
        if all(answers.ids.get(size) == ids for answers in of_methods):
            each = [answers.correct_SE[size] for answers in of_methods]
            parts = [(correct_SE.sum(0), len(correct_SE)) for correct_SE in each]
            for at, name in enumerate(ids):
                yield _Entry(size, name, tuple((int(right[at]), n) for right, n in parts))


def look_pages(folders: Sequence[str], out: Path) -> dict[str, str]:
    """By entry, the page of ``laid look`` on it, relative to the report's folder.

    Raises:
        UserError: a folder holds no such page.
    """
    pages = {}
    for folder in map(Path, folders):
        try:
            entry = json.loads((folder / "look.json").read_text(encoding="utf-8"))["entry"]
        except (OSError, ValueError, KeyError, TypeError) as reason:
            raise UserError(
                f"--look {folder}: expected a folder that laid look has written ({reason})"
            ) from reason
        pages[str(entry)] = os.path.relpath(folder.resolve() / "look.html", out.resolve())
    return pages
