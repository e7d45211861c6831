"""Runs with RoPE response gains, by the command line."""

import json
import re
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from laid.checkpoints.runs import find_checkpoint
from laid.inspection.named_models import named_models

QUICK = (
    "--trainer.num_sanity_val_steps", 0, "--trainer.limit_val_batches", 0, "--data.workers", 0,
)  # fmt: skip
STRONG = ("--model.optimizer.gain_lr", 0.3)
"""A rate at which a few steps are seen in the answers."""


def content_of(run):
    return torch.load(find_checkpoint(str(run), run.parent).path, weights_only=True)


def records(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").open().readlines()[1:]]


@pytest.fixture
def tuned(run, config, work):
    """A run of four steps."""
    folder = work / "runs" / "gain"
    if not folder.exists():
        options = (*QUICK, *STRONG, "--name", "gain", "--trainer.max_steps", 4)
        assert run("fit", "--config", config, "--model.rope_gain.layers", "all", *options)[0] == 0
    return folder


def test_a_checkpoint_has_the_gains_and_a_figure_shows_them(tuned):
    content = content_of(tuned)
    logs = {k: v for k, v in content["state_dict"].items() if k.endswith(".rope_gain.log_gain_HF")}
    assert [value.shape for value in logs.values()] == [(4, 16)] * 2
    assert all((value != 0).all() for value in logs.values())
    groups = {g["name"]: g for g in content["optimizer_states"][0]["param_groups"]}
    assert len(groups["rope_gain"]["params"]) == 2
    assert groups["rope_gain"]["weight_decay"] == 0
    assert (tuned / "figures" / "rope_gain.png").stat().st_size > 1000
    flow = json.loads((tuned / "figures" / "head_flow.json").read_text())
    for number, value in enumerate(logs.values()):
        shown = torch.tensor(flow["rope_gain"][f"layer_{number}"])
        torch.testing.assert_close(shown, value.exp())


def test_a_test_of_the_checkpoint_answers_as_that_of_the_export(tuned, run, config, work, pair):
    assert run("test", "--ckpt_path", tuned, "--results", work / "gain-tested")[0] == 0
    results = json.loads((work / "gain-tested" / "results.json").read_text())
    assert results["identity"]["student"]["rope_gain"] == {"layers": "all"}
    assert run("export", "--ckpt_path", tuned, "--out", work / "gain-out")[0] == 0
    files = [work / "gain-out" / "model.safetensors", pair[0] / "model.safetensors"]
    ours, base = (list(safe_open(file, "pt").keys()) for file in files)
    assert ours == base
    assert run(
        "test", "--config", config, "--model.student.path", work / "gain-out",
        "--results", work / "gain-exported",
    )[0] == 0  # fmt: skip
    assert records(work / "gain-tested") == records(work / "gain-exported") != []


def test_a_spectrum_is_that_of_queries_with_gains(tuned):
    (model,) = named_models([f"tuned={tuned}"], None)
    gains = model.load(torch.device("cpu")).gains()
    logs = [v for k, v in content_of(tuned)["state_dict"].items() if "rope_gain" in k]
    for gain_HF, log_gain_HF in zip(gains.values(), logs, strict=True):
        assert torch.equal(gain_HF, log_gain_HF.exp())


@pytest.mark.parametrize("option", ["null", "[0]"])
def test_other_gains_than_those_of_the_checkpoint_are_refused(tuned, run, work, option):
    setting = "--model.rope_gain" if option == "null" else "--model.rope_gain.layers"
    words = (setting, option, "--results", work / "refused")
    code, error = run("test", "--ckpt_path", tuned, *words)
    assert code == 2
    assert re.search(r"does not fit the model.*rope_gain", error)


def test_a_resumed_run_has_the_gains_of_an_uninterrupted_one(tuned, run, work):
    half = work / "runs" / "gain-half"
    shutil.copytree(tuned, half)
    for path in half.glob("checkpoints/*.ckpt"):
        if path.name not in ("step=1.ckpt", "step=2.ckpt"):
            path.unlink()
    assert run("fit", "--ckpt_path", half, "--head_flow.enabled", "false")[0] == 0
    whole, resumed = content_of(tuned)["state_dict"], content_of(half)["state_dict"]
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


def test_a_checkpoint_from_before_there_were_gains_is_taken(run, config, work, pair):
    options = (*QUICK, "--name", "older", "--trainer.max_steps", 1, "--head_flow.enabled", "false")
    assert run("fit", "--config", config, *options)[0] == 0
    path = find_checkpoint(str(work / "runs" / "older"), work / "runs").path
    content = torch.load(path, weights_only=True)
    text = re.sub(r"(?m)^ *(rope_gain|gain_lr): .*\n", "", content["laid"]["config"])
    assert text.count("\n") == content["laid"]["config"].count("\n") - 2
    content["laid"]["config"] = text
    torch.save(content, path)
    results = ("--results", work / "older-results", "--data.test.sizes", "[1]")
    assert run("test", "--ckpt_path", path, *results)[0] == 0
    assert "rope_gain" not in json.dumps(
        json.loads((work / "older-results" / "results.json").read_text())["identity"]
    )
    assert run("export", "--ckpt_path", path, "--out", work / "older-out")[0] == 0
    written = load_file(work / "older-out" / "model.safetensors")
    assert written.keys() == load_file(pair[0] / "model.safetensors").keys()
