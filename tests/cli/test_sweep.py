"""Sweeps: a list of runs, some at a time, that goes on where it was."""

import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SWEEP = ROOT / "benchmarks" / "sweep.py"


@pytest.fixture(scope="module")
def sweep():
    spec = spec_from_file_location("sweep", SWEEP)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_runs_are_laid_out_seed_by_seed(sweep):
    runs = sweep.expand(
        {
            "root": "runs/x",
            "config": ["configs/tiny.yaml"],
            "fit": ["--a=1"],
            "test": ["--b=2"],
            "seeds": [0, 1],
            "runs": {
                "base": {"fit": False},
                "laid": None,
                "kd": {"fit": ["--c=3"], "test": ["--d=4"], "seeds": [1]},
            },
        }
    )
    assert [run["name"] for run in runs] == ["base", "laid-seed0", "laid-seed1", "kd-seed1"]
    base, laid, _, kd = runs
    assert base["fit"] is None
    assert base["test"] == ["--config", "configs/tiny.yaml", "--b=2"]
    assert laid["fit"] == ["--config", "configs/tiny.yaml", "--a=1", "--seed_everything", 0]
    assert laid["test"] == ["--b=2"]
    assert kd["fit"][2:] == ["--a=1", "--c=3", "--seed_everything", 1]
    assert kd["test"] == ["--b=2", "--d=4"]
    assert kd["folder"] == Path("runs/x/kd-seed1")


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_shipped_sweep_names_what_there_is(path, sweep):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    runs = sweep.expand(content)
    assert len({run["name"] for run in runs}) == len(runs) > 1
    words = [word for run in runs for word in [*(run["fit"] or []), *run["test"]]]
    for word in words:
        if str(word).endswith(".yaml"):
            assert (ROOT / word).is_file()


@pytest.mark.slow
def test_what_is_done_is_not_done_again(tmp_path):
    plan = {
        "root": "runs/x",
        "config": [str(ROOT / "configs" / "tiny.yaml")],
        "fit": [
            "--trainer.max_steps=3", "--data.train.entries=24", "--data.validate.per_size=2",
            "--trainer.limit_val_batches=0", "--trainer.num_sanity_val_steps=0",
            "--head_flow.enabled=false",
        ],
        "test": ["--data.test.sizes=[1,2]", "--data.test.per_size=2"],
        "runs": {"base": {"fit": False}, "laid": None, "wrong": {"fit": ["--model.student=3"]}},
    }  # fmt: skip
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))

    def run():
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, SWEEP, "plan.yaml"],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip

    first = run()
    assert first.returncode != 0
    assert "failed: wrong-seed0" in first.stderr
    assert "| base | " in first.stdout
    assert "| laid-seed0 | " in first.stdout
    log = tmp_path / "runs" / "x" / "laid-seed0.log"
    commands = log.read_text().count("$ ")
    again = run()
    assert log.read_text().count("$ ") == commands == 2
    assert again.stdout.splitlines()[-2:] == first.stdout.splitlines()[-2:]
    (tmp_path / "runs" / "x" / "laid-seed0" / "fitted").unlink()
    run()
    assert "--ckpt_path runs/x/laid-seed0" in log.read_text().split("$ ")[3]
