"""Runs the sides of a comparison in turn, each in a process of its own, and compares them round by
round."""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from laid.common.atomic_files import atomic_write_text
from laid.common.tables import Table, text

SIDES = Path(__file__).with_name("sides.py")


@dataclass(frozen=True)
class Report:
    """A table, and the same as data."""

    name: str
    table: Table
    content: dict[str, Any]

    def write(self, out: Path) -> None:
        """Prints the table and writes ``NAME.json``."""
        print(text(self.table), flush=True)
        content = {"machine": machine(), **self.content}
        atomic_write_text(out / f"{self.name}.json", json.dumps(content, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """What the numbers depend on; the load tells of other jobs."""
    cpus = [x for x in _lines("/proc/cpuinfo") if x.startswith("model name")]
    return {
        "cpu": cpus[0].partition(":")[2].strip() if cpus else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def run(side: str, settings: dict[str, Any], python: str = sys.executable) -> dict[str, Any]:
    """What a side measured of itself, or ``{"failed": why}``."""
    done = subprocess.run(
        [python, str(SIDES), side, json.dumps(settings)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return {"failed": lines[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(
    name: str, title: str, sides: Sequence[str], rounds: int, settings: dict[str, Any]
) -> Report:
    """Each side against the first: median and range over rounds of the ratio of their medians."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(rounds):
        # Every second round backwards, so that a slow drift of the machine favours none.
        for side in sides if number % 2 == 0 else reversed(sides):
            found[side].append(run(side, settings))
    rows = []
    for side, runs in found.items():
        if failed := [one["failed"] for one in runs if "failed" in one]:
            rows.append([side, "0", "–", "–", "–", failed[0][:60]])
            continue
        each = [statistics.median(one["seconds"]) for one in runs]
        row = [side, str(len(each)), f"{statistics.median(each):.2f}"]
        row.append(f"{statistics.median(one['peak_gib'] for one in runs):.2f}")
        firsts = [statistics.median(one["seconds"]) for one in found[sides[0]] if "seconds" in one]
        if len(firsts) == len(each):
            ratios = [own / first for own, first in zip(each, firsts, strict=True)]
            row.append(f"{statistics.median(ratios):.2f}")
            row.append(f"{min(ratios):.2f} to {max(ratios):.2f}")
        rows.append(row)
    header = ["side", "n", "s", "peak GiB", f"time / {sides[0]}", "range"]
    content = {"settings": settings, "rounds": found}
    return Report(name, Table(name, title, header, rows), content)


def linear(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Slope, intercept, and the largest residual relative to the largest y."""
    slope, intercept = statistics.linear_regression(x, y)
    off = max(abs(b - slope * a - intercept) for a, b in zip(x, y, strict=True))
    return slope, intercept, off / max(y)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
