"""What ``laid doctor`` says of one thing that a run needs."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: what was looked at.
        state: ok; note, which a run may live with; or problem, which stops it.
        found: what is there.
        advice: how to fix it; empty where there is nothing to fix.
    """

    subject: str
    state: Literal["ok", "note", "problem"]
    found: str
    advice: str = ""


def report(title: str, findings: Sequence[Finding]) -> str:
    """Findings, a line each; what to do about one stands beneath it."""
    wide = max(len(one.subject) for one in findings)
    lines = [title]
    for one in findings:
        lines.append(f"  {one.state:<8} {one.subject:<{wide}}  {one.found}")
        indent = " " * (wide + 13)
        lines += [indent + line for line in textwrap.wrap(one.advice, max(40, 118 - wide - 13))]
    return "\n".join(lines)


def gib(size: float) -> str:
    """Bytes in GiB, or in MiB where it is less."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"
