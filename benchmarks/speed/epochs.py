"""Training on the miniature by the command line's own code: from caches, by SFT, and beside the
teacher."""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from side_by_side import Report

from laid.common.tables import Table

_TIMED = """
import sys, time
from laid.training.module import LaidModule
begin, spent = LaidModule.on_train_start, []
def on_train_start(self):
    begin(self)
    self.begun = time.process_time()
LaidModule.on_train_start = on_train_start
LaidModule.on_train_end = lambda self: spent.append(time.process_time() - self.begun)
from laid.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(spent[0] if spent else 0.0)
"""
"""The command line, and at last the seconds of processor time from the first step to the last."""
ROOT = Path(__file__).parents[2]


def laid(folder: Path, *words: object) -> float:
    """Runs a command in ``folder``; returns its seconds of training."""
    done = subprocess.run(
        [sys.executable, "-c", _TIMED, *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(done.stdout.splitlines()[-1])


def epochs(folder: Path, args: argparse.Namespace) -> Report:
    """An epoch of each, in turn; the cache of the teacher is made first."""
    configs = ROOT / "configs"
    common = [
        "--config", configs / "tiny.yaml", "--data.train.entries", args.entries,
        "--trainer.max_epochs", 1, "--trainer.limit_val_batches", 0, "--head_flow.enabled", "false",
        "--trainer.enable_progress_bar", "false", "--model.objective.retrieval.weight", 0,
        "--model.objective.laid.weight", 1, "--model.objective.laid.layers", "final",
    ]  # fmt: skip
    cache = folder / "teacher-cache"
    laid(folder, "cache", *common, "--out", cache)
    sides = {
        "SFT": ["--model.objective.laid.weight", 0, "--model.objective.kl.weight", 0],
        "LAid, cached": ["--model.teacher_source", f"cache:{cache}"],
        "LAid, online": [],
    }
    found: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(args.rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            found[side].append(laid(folder, "fit", *common, *sides[side]))
    rows = []
    for side, seconds in found.items():
        ratios = [own / sft for own, sft in zip(seconds, found["SFT"], strict=True)]
        row = [side, str(len(seconds)), f"{statistics.median(seconds):.1f}"]
        row += [f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"]
        rows.append(row)
    title = f"An epoch of {args.entries} haystacks of 2 to 20 images on the miniature"
    table = Table("epoch", title, ["run", "n", "s", "time / SFT", "range"], rows)
    return Report("epoch", table, json.loads(json.dumps({"entries": args.entries, "s": found})))
