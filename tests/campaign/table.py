"""The table of docs/reliability.md: how many cases of each kind were tried, and how many passed."""

import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from campaign.cases import CASES

import laid

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
_BEGIN, _END = "<!-- written by `make campaign` -->", "<!-- to here -->"


def table(tried: Mapping[str, int], passed: Mapping[str, int], earlier: str = "") -> str:
    """In Markdown, in the order of the kinds.

    Args:
        tried: cases by kind.
        passed: those of them that passed.
        earlier: a page whose rows count for the kinds that were not tried now.
    """
    found = rows(earlier) | {kind: (n, passed.get(kind, 0)) for kind, n in tried.items()}
    kinds = [kind for kind in dict.fromkeys(case.kind for case in CASES) if kind in found]
    lines = [f"| {kind} | {found[kind][0]} | {found[kind][1]} |" for kind in kinds]
    total = [sum(found[kind][column] for kind in kinds) for column in (0, 1)]
    day = datetime.now(UTC).date()
    where = f"laid {laid.__version__}, {day}, Python {platform.python_version()}, two cores"
    head = [f"`make campaign`: {where}.", "", "| kind | tried | passed |", "|---|---|---|"]
    return "\n".join([*head, *lines, f"| **all** | {total[0]} | {total[1]} |"])


def replaced(page: str, new: str) -> str:
    """The page with a new table."""
    before, rest = page.split(_BEGIN)
    _, after = rest.split(_END)
    return f"{before}{_BEGIN}\n\n{new}\n\n{_END}{after}"


def rows(page: str) -> dict[str, tuple[int, int]]:
    """Tried and passed by kind, as a page says."""
    found = re.findall(r"^\| ([^|*]+) \| (\d+) \| (\d+) \|$", page, re.M)
    return {kind: (int(tried), int(passed)) for kind, tried, passed in found}
