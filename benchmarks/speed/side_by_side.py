"""Runs the sides of a comparison in turn, each in a process of its own, and compares them round by
round."""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from laid.common.atomic_files import atomic_write_text
from laid.common.tables import NONE, Table, text

SIDES = Path(__file__).with_name("sides.py")
Measured = dict[str, Any]
"""What a side measured of itself, or ``{"failed": why}``."""


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


class Runs:
    """What the runs of a benchmark measured, kept in a file as it comes: one that was stopped goes
    on where it was, if its settings are the same."""

    def __init__(self, out: Path, name: str, settings: dict[str, Any]):
        self.path, self.settings = out / f"{name}.runs.json", settings
        self.known: dict[str, Measured] = {}
        self._failed = False
        if self.path.is_file():
            before = json.loads(self.path.read_text())
            if before["settings"] == json.loads(json.dumps(settings)):
                self.known = before["runs"]

    def run(self, side: str, number: int, measure: Callable[[], Measured]) -> Measured:
        """Measures a side for the round ``number``, unless that is known."""
        key = f"{side}, {number}"
        if key not in self.known:
            found = measure()
            if "failed" in found:
                self._failed = True
                return found
            self.known[key] = found
            content = {"settings": self.settings, "runs": self.known}
            atomic_write_text(self.path, json.dumps(content) + "\n")
        return self.known[key]

    def finish(self) -> None:
        """Forgets all, unless a run failed: the next time it alone is tried again."""
        if not self._failed:
            self.path.unlink(missing_ok=True)


def machine() -> dict[str, Any]:
    """What the numbers depend on; the load tells of other jobs."""
    cpus = [x for x in _lines("/proc/cpuinfo") if x.startswith("model name")]
    return {
        "cpu": cpus[0].partition(":")[2].strip() if cpus else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


def run(side: str, settings: dict[str, Any], folder: Path) -> Measured:
    """Runs a side of ``sides.py`` on the images and models of ``folder``."""
    done = subprocess.run(
        [sys.executable, str(SIDES), side, str(folder), json.dumps(settings)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return {"failed": lines[-1]}
    found: Measured = json.loads(done.stdout.splitlines()[-1])
    return found


def in_turn(
    sides: Sequence[str], rounds: int, runs: Runs, measure: Callable[[str], Measured]
) -> dict[str, list[Measured]]:
    """Every second round backwards, so that a slow drift of the machine favours none."""
    found: dict[str, list[Measured]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            found[side].append(runs.run(side, number, lambda side=side: measure(side)))  # type: ignore[misc]
    return found


def compare(
    name: str,
    title: str,
    sides: Sequence[str],
    rounds: int,
    settings: dict[str, Any],
    folder: Path,
    out: Path,
) -> Report:
    """Each side against the first: median and range over rounds of the ratio of their medians."""
    runs = Runs(out, name, settings)
    found = in_turn(sides, rounds, runs, lambda side: run(side, settings, folder))
    firsts, rows = found[sides[0]], []
    for side, own in found.items():
        if failed := [one["failed"] for one in own if "failed" in one]:
            rows.append([side, "0", *[NONE] * 4, failed[0][:60]])
            continue
        row = [side, str(len(own)), median("{:.2f}", [_seconds(one) for one in own])]
        row.append(median("{:.2f}", [one["peak_gib"] for one in own]))
        if not any("failed" in one for one in firsts):
            pairs = list(zip(own, firsts, strict=True))
            ratios = [_seconds(one) / _seconds(first) for one, first in pairs]
            row += [median("{:.2f}", ratios), span("{:.2f}", ratios)]
            row.append(
                median("{:.2f}", [one["peak_gib"] / first["peak_gib"] for one, first in pairs])
            )
        rows.append(row)
    runs.finish()
    against = sides[0]
    header = ["side", "n", "s", "peak GiB", f"time / {against}", "range", f"peak / {against}"]
    return Report(name, Table(name, title, header, rows), {"settings": settings, "rounds": found})


def median(form: str, values: Sequence[float]) -> str:
    """Of some numbers, as ``form`` writes it."""
    return form.format(statistics.median(values))


def span(form: str, values: Sequence[float]) -> str:
    """The smallest and the largest of some numbers."""
    return f"{form.format(min(values))} to {form.format(max(values))}"


def linear(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Slope, intercept, and the largest residual relative to the largest y."""
    slope, intercept = statistics.linear_regression(x, y)
    off = max(abs(b - slope * a - intercept) for a, b in zip(x, y, strict=True))
    return slope, intercept, off / max(y)


def _seconds(one: Measured) -> float:
    return float(statistics.median(one["seconds"]))


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
