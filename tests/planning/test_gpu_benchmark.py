"""The benchmark for GPUs, at tiny size on whatever is here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_measures_every_case_and_says_what_it_left_out(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", "--size", "tiny", "--steps", "2"]
    command += ["--images", "2", "3", "--test_images", "5", "--warmup", "1", "--out", tmp_path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    content = json.loads((tmp_path / "gpu.json").read_text())
    rows = content["rows"]
    sdpa = [(row["case"], row["images"]) for row in rows if row["attention"] == "sdpa"]
    assert sdpa == [
        ("7B student", 2),
        ("7B student", 3),
        ("3B student, 7B teacher", 2),
        ("3B student, 7B teacher", 3),
        ("test", 5),
    ]
    for row in rows:
        if row["attention"] == "sdpa":
            assert row["seconds"] > 0
            assert row["flops"] > 0
            assert row["planned_gib"] > 0
    assert set(rows[2]["phases"]) == {"teacher", "student", "backward", "optimizer"}
    flash = [row for row in rows if row["attention"] == "flash_attention_2"]
    assert all("note" in row or row["seconds"] > 0 for row in flash)
    markdown = (tmp_path / "gpu.md").read_text()
    assert content["device"] in markdown
    assert markdown.count("\n|") == 2 + len(rows)
