"""Fits and tests a list of runs, some at a time; started again, it resumes.

    python benchmarks/sweep.py benchmarks/mixing.yaml [--jobs 2] [--only shared-]

The YAML file:

    root: runs/mixing              # folder of the runs
    config: [configs/tiny.yaml]    # of every command
    prepare:                       # commands to run first, unless what they make exists
      - makes: runs/mixing/x
        command: [python, benchmarks/x.py, runs/mixing/x]
    fit: [--trainer.max_steps, 1500]     # further arguments of every `laid fit`
    test: [--data.test.per_size, 200]    # ... and of every `laid test`
    seeds: [0, 1, 2]               # of seed_everything; a run may have its own
    runs:
      kd: {fit: [--model.objective.laid.weight, 0]}
      base: {fit: false}           # only tested, once
      window: {fit: false, test: [--config, configs/window/yarn.yaml]}
      int8: {cache: true, fit: [--model.teacher_source, "cache:runs/x-int8", …]}

Run NAME of seed S is fitted into ROOT/NAME-seedS and tested there. An interrupted fit resumes from
its last checkpoint, a test from its last answer; what is finished is not repeated. With ``cache``,
`laid cache` comes before each fit with the same arguments: the first seed makes what all read.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import rmtree
from threading import Lock
from typing import Any

import yaml

from laid.common.tables import Table, markdown

FITTED, TESTED = "fitted", "tested"
"""Files that mark a run's folder when its training and its test are finished."""
_caching = Lock()
"""One cache at a time: of two that fill the same, the first to end would say that it has gaps."""


def main() -> None:
    """Runs the sweep of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sweep", type=Path, help="YAML file of runs")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--only", default="", help="only runs whose name contains this")
    parser.add_argument("--seeds", type=int, nargs="*", help="instead of the file's")
    args = parser.parse_args()
    sweep = yaml.safe_load(args.sweep.read_text(encoding="utf-8"))
    if args.seeds:
        sweep["seeds"] = args.seeds
    for step in sweep.get("prepare", ()):
        if not Path(step["makes"]).exists():
            _call(step["command"], Path(sweep["root"]) / "prepare.log")
    runs = [run for run in expand(sweep) if args.only in run["name"]]
    if not runs:
        parser.error(f"no run of {args.sweep} has {args.only!r} in its name and one of the seeds")
    with ThreadPoolExecutor(args.jobs) as pool:
        failed = [name for name in pool.map(do, runs) if name]
    print(table([run for run in runs if run["name"] not in failed]))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; each run's log is beside its folder")


def expand(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """One dictionary a run and seed: its name, folder, and the arguments of its commands."""
    root = Path(sweep["root"])
    config = [part for path in sweep["config"] for part in ("--config", path)]
    runs = []
    # Seed by seed, so that all runs of one seed are finished first.
    seeds = sweep.get("seeds", [0])
    wanted = [(s, n, r or {}) for s in seeds for n, r in sweep["runs"].items()]
    for seed, label, run in wanted:
        if seed not in run.get("seeds", seeds):
            continue
        fitted = run.get("fit") is not False
        if not fitted and seed != seeds[0]:
            continue
        name = f"{label}-seed{seed}" if fitted else label
        more = [*sweep.get("test", []), *run.get("test", [])]
        fit = [*sweep.get("fit", []), *(run.get("fit") or [])] if fitted else None
        runs.append(
            {
                "name": name,
                "folder": root / name,
                "fit": fit if fit is None else [*config, *fit, "--seed_everything", seed],
                "test": [*more] if fitted else [*config, *more],
                "cache": fitted and run.get("cache", False),
            }
        )
    return runs


def do(run: dict[str, Any]) -> str | None:
    """Fits and tests one run, without what is finished; returns its name if it failed."""
    folder: Path = run["folder"]
    log = folder.parent / f"{folder.name}.log"
    try:
        if run["fit"] is not None and not (folder / FITTED).exists():
            if list((folder / "checkpoints").glob("step=*")):
                try:
                    _laid(["fit", "--ckpt_path", folder], log)
                except subprocess.CalledProcessError:
                    if "nothing was trained: the run is at step" not in log.read_text()[-2000:]:
                        raise  # else it was cut off after its last step
            else:
                if run["cache"]:
                    with _caching:
                        _laid(["cache", *run["fit"]], log)
                rmtree(folder, ignore_errors=True)
                place = ["--name", folder.name, "--trainer.default_root_dir", folder.parent]
                _laid(["fit", *run["fit"], *place], log)
            (folder / FITTED).touch()
        if not (folder / TESTED).exists():
            where = ["--ckpt_path", folder] if run["fit"] is not None else ["--results", folder]
            _laid(["test", *run["test"], *where], log)
            (folder / TESTED).touch()
    except subprocess.CalledProcessError as reason:
        print(f"{run['name']}: failed with {reason.returncode}, see {log}", flush=True)
        return str(run["name"])
    print(f"{run['name']}: done", flush=True)
    return None


def table(runs: list[dict[str, Any]]) -> str:
    """Accuracy in percent by haystack size, a row a run, as Markdown."""
    rows = []
    for run in runs:
        found = json.loads((run["folder"] / "results.json").read_text(encoding="utf-8"))
        cells = found["by_size"]
        shares = [f"{100 * cell['correct'] / cell['n']:.1f}" for cell in cells.values()]
        rows.append((list(cells), [run["name"], *shares]))
    if not rows:
        return ""
    title = "Accuracy in percent by haystack size"
    return markdown(Table("sweep", title, ["run", *rows[0][0]], [cells for _, cells in rows]))


def _laid(arguments: list[Any], log: Path) -> None:
    _call([sys.executable, "-m", "laid", *arguments], log)


def _call(command: list[Any], log: Path) -> None:
    words = [sys.executable if word == "python" else str(word) for word in command]
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("a", encoding="utf-8") as out:
        out.write(f"$ {' '.join(words)}\n")
        out.flush()
        subprocess.run(words, stdout=out, stderr=out, env=environment, check=True)


if __name__ == "__main__":
    main()
