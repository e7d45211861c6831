"""The benchmark of speed: sides run, tables and JSON are written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).parents[2] / "benchmarks" / "speed" / "speed.py"


@pytest.mark.slow  # some processes, each with models of 80 million parameters
def test_sides_are_run_in_turn_and_compared(tmp_path):
    words = ["step", "--images", "1", "--sizes", "1", "--rounds", "2", "--steps", "1"]
    done = subprocess.run(
        [sys.executable, SPEED, *words, "--sides", "laid", "naive", "--out", tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "naive" in done.stdout
    found = json.loads((tmp_path / "step.json").read_text())
    assert found["machine"]["cores"] >= 1
    for side in ("laid", "naive"):
        assert len(found["rounds"][side]) == 2
        assert all(one["seconds"][0] > 0 and one["peak_gib"] > 0 for one in found["rounds"][side])
