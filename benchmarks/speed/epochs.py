"""Training on the miniature by the command line's own code: from caches, by SFT, and beside the
teacher."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import Measured, Report, Runs, in_turn, median, span

from laid.common.tables import NONE, Table

_TIMED = """
import json, resource, sys, time
from laid.training.module import LaidModule
begin, ends = LaidModule.on_train_start, []
def on_train_start(self):
    begin(self)
    ends.append(time.process_time())
LaidModule.on_train_start = on_train_start
LaidModule.on_train_epoch_end = lambda self: ends.append(time.process_time())
from laid.cli.main import main
begun = time.perf_counter()
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
unit = 2**10 if sys.platform == "linux" else 1
print(json.dumps({
    "whole": time.process_time(),
    "clock": time.perf_counter() - begun,
    "epochs": [after - before for before, after in zip(ends, ends[1:])],
    "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30,
}))
"""
"""The command line, and at last its seconds of processor time, imports included, and those of each
epoch."""
ROOT = Path(__file__).parents[2]
MEASURED, ALL = 2, 10
"""Epochs that are run, and those whose time is estimated from them."""
SFT, CACHED, ONLINE, PIXELS = "SFT", "LAid, cached", "LAid, online", "LAid, online, pixels"


def laid(folder: Path, *words: object) -> Measured:
    """Runs a command in ``folder``; returns what it measured."""
    done = subprocess.run(
        [sys.executable, "-c", _TIMED, *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        return {"failed": done.stderr[-2000:]}
    found: Measured = json.loads(done.stdout.splitlines()[-1])
    return found


def epochs(folder: Path, args: argparse.Namespace) -> Report:
    """Two epochs of each, in turn, and what ten take: a command of ten runs the second epoch eight
    times more. The teacher's cache is made anew each time, and counted."""
    common = [
        "--config", ROOT / "configs" / "tiny.yaml", "--data.train.entries", args.entries,
        "--data.train.min_size", 2, "--trainer.max_epochs", MEASURED,
        "--trainer.limit_val_batches", 0, "--head_flow.enabled", "false",
        "--trainer.enable_progress_bar", "false",
        "--model.objective.retrieval.weight", 0, "--model.objective.laid.weight", 1,
        "--model.objective.laid.layers", "final",
    ]  # fmt: skip
    options = {
        SFT: ["--model.objective.laid.weight", 0, "--model.objective.kl.weight", 0],
        CACHED: [],
        ONLINE: [],
        PIXELS: ["--data.cache_features", "false"],
    }

    def measure(side: str) -> Measured:
        fit = ["fit", *common, *options[side]]
        if side != CACHED:
            return laid(folder, *fit)
        cache = Path(tempfile.mkdtemp(dir=folder)) / "teacher-cache"
        made = laid(folder, "cache", *common, "--out", cache)
        fitted = laid(folder, *fit, "--model.teacher_source", f"cache:{cache}")
        return made if "failed" in made else {**fitted, "made": made}

    runs = Runs(args.out, "epoch", {"entries": args.entries})
    found = in_turn([*options], args.rounds, runs, measure)
    runs.finish()
    for one in (one for own in found.values() for one in own):
        if "failed" in one:
            raise RuntimeError(one["failed"])
    rows = []
    for side, own in found.items():
        epoch = [_epoch(one) for one in own]
        ten = [_ten(one) for one in own]
        of_sft = [a / _epoch(b) for a, b in zip(epoch, found[SFT], strict=True)]
        row = [side, str(len(own)), median("{:.1f}", epoch)]
        row.append(median("{:.2f}", [one["epochs"][1] / one["epochs"][0] for one in own]))
        row += [median("{:.2f}", of_sft), span("{:.2f}", of_sft), median("{:.0f}", ten)]
        if side == SFT:
            row += [NONE] * 2
        else:
            of_online = [a / _ten(b) for a, b in zip(ten, found[ONLINE], strict=True)]
            row += [median("{:.2f}", of_online), span("{:.2f}", of_online)]
        rows.append([*row, median("{:.2f}", [one["peak_gib"] for one in own])])
    header = ["run", "n", "epoch, s", "2nd / 1st", "epoch / SFT", "range"]
    header += [f"{ALL} epochs, s", "/ online", "range", "peak GiB"]
    title = f"Epochs of {args.entries} haystacks of 2 to 20 images on the miniature"
    return Report(
        "epoch", Table("epoch", title, header, rows), {"entries": args.entries, "runs": found}
    )


def _epoch(one: Measured) -> float:
    """Seconds of an epoch."""
    return statistics.fmean(one["epochs"])


def _ten(one: Measured) -> float:
    """Seconds of ``ALL`` epochs from nothing: that of the commands that were run, the making of a
    cache among them, and the second epoch as often as is left."""
    making = one["made"]["whole"] if "made" in one else 0.0
    return float(making + one["whole"] + (ALL - MEASURED) * one["epochs"][-1])
