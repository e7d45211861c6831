"""``laid fit``: what a run leaves, and that a killed one loses nothing."""

import json
import re
import shutil
import signal
import time

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from laid.checkpoints.runs import find_checkpoint

LOSSES = ("train/loss", "train/laid", "train/kl", "train/sft", "grad_norm/student")


def events(folder):
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    board.Reload()
    return board


def losses(folder):
    """Every logged loss by step."""
    board = events(folder)
    return {tag: {e.step: e.value for e in board.Scalars(tag)} for tag in LOSSES}


def test_a_run_leaves_its_settings_checkpoints_and_figures(fitted):
    names = {p.relative_to(fitted).as_posix() for p in fitted.rglob("*") if p.is_file()}
    assert "config.yaml" in names
    assert {"figures/head_flow.png", "figures/mixing.png", "figures/head_flow.json"} <= names
    steps = sorted(int(re.findall(r"\d+", p.name)[0]) for p in fitted.glob("checkpoints/*"))
    assert steps == list(range(1, 13))
    assert yaml.safe_load((fitted / "config.yaml").read_text())["data"]["global_batch_size"] == 2


def test_a_checkpoint_holds_student_and_objective_only(fitted):
    content = torch.load(find_checkpoint(str(fitted), fitted.parent).path, weights_only=True)
    prefixes = {key.split(".")[0] for key in content["state_dict"]}
    assert prefixes == {"student", "objective"}
    student = [k for k in content["state_dict"] if k.startswith("student.")]
    assert all(k.startswith("student.hf.") for k in student)


def test_every_scalar_is_logged(fitted):
    tags = set(events(fitted).Tags()["scalars"])
    terms = {f"train/{t}{w}" for t in ("laid", "kl", "sft") for w in ("", "_weighted")}
    assert terms <= tags
    assert {"train/loss", "grad_norm/student", "grad_norm/mixing", "memory/peak_gib"} <= tags
    assert {"speed/tokens_per_second", "speed/images_per_second"} <= tags
    assert {"val/accuracy", "val/accuracy_2"} <= tags
    assert {"lr/student", "lr/student_no_decay", "lr/mixing"} <= tags
    assert "head_flow/teacher/layer_2/head_00" in tags


def test_weighted_terms_add_up_to_the_loss(fitted):
    board = events(fitted)

    def values(tag):
        return torch.tensor([e.value for e in board.Scalars(tag)])

    parts = sum(values(f"train/{term}_weighted") for term in ("laid", "kl", "sft"))
    torch.testing.assert_close(parts, values("train/loss"))


def test_head_flow_is_normalised_and_training_changed_it(fitted):
    flow = json.loads((fitted / "figures" / "head_flow.json").read_text())
    assert flow["sizes"] == [1, 2]
    for curves in flow["curves"].values():
        for rows in curves.values():
            assert max(max(row) for row in rows) == pytest.approx(1.0)
    assert set(flow["curves"]) == {"student_before", "student_after", "teacher"}
    assert flow["curves"]["student_before"] != flow["curves"]["student_after"]
    assert flow["mixing"]["before"] != flow["mixing"]["after"]


@pytest.mark.parametrize(
    "step",
    [4, pytest.param(6, marks=pytest.mark.slow)],
    ids=lambda step: f"after step {step} of 12",
)
def test_a_killed_run_goes_on_with_the_losses_of_an_uninterrupted_one(
    start, laid, config, fitted, work, step
):
    """Killed hard as soon as a checkpoint is there: in mid-epoch, or at its end (step 6)."""
    name = f"killed-{step}"
    process = start("fit", "--config", config, "--name", name)
    checkpoint = work / "runs" / name / "checkpoints" / f"step={step}.ckpt"
    while not checkpoint.exists():
        assert process.poll() is None, process.said[-3000:]
        time.sleep(0.01)
    process.send(signal.SIGKILL, group=True)
    process.wait()
    for later in checkpoint.parent.glob("*.ckpt"):
        if int(re.findall(r"\d+", later.name)[0]) > step:
            later.unlink()  # it got further before it died; let it begin just here
    again = laid("fit", "--config", config, "--name", name, "--ckpt_path", "last")
    assert f"checkpoint runs/{name}/checkpoints/step={step}.ckpt" in again.err
    whole, resumed = losses(fitted), losses(work / "runs" / name)
    for tag in LOSSES:
        late = {s: value for s, value in whole[tag].items() if s >= step}
        assert len(late) == 12 - step
        assert {s: v for s, v in resumed[tag].items() if s >= step} == late, tag
    before, after = (
        json.loads((run / "figures" / "head_flow.json").read_text())["curves"]["student_before"]
        for run in (fitted, work / "runs" / name)
    )
    assert before == after


@pytest.mark.slow
def test_taking_a_run_up_again_leaves_no_checkpoint_inside_a_step(laid, config, work):
    """Twice stopped and taken up: after each, only checkpoints between optimizer steps."""
    options = ("--config", config, "--name", "twice", "--head_flow.enabled", "false")
    laid("fit", *options, "--trainer.max_steps", 3)
    folder = work / "runs" / "twice"
    for _ in range(2):
        laid("fit", *options, "--ckpt_path", folder, "--trainer.max_steps", 3, code=2)
        assert len(list(folder.glob("checkpoints/*"))) == 3
    laid("fit", *options, "--ckpt_path", folder, "--trainer.max_steps", 5)
    for path in folder.glob("checkpoints/*.ckpt"):
        content = torch.load(path, weights_only=True)
        place = content["HaystackDataModule"]
        assert place["epoch"] * 12 + place["taken"] == 2 * content["global_step"]


@pytest.mark.slow
def test_a_learning_rate_typed_for_a_resumed_run_takes_effect(laid, config, fitted, work):
    folder = work / "runs" / "other-rate"
    shutil.copytree(fitted, folder)
    for path in folder.glob("checkpoints/*.ckpt"):
        if "step=9." not in path.name:
            path.unlink()
    for path in folder.glob("events*"):
        path.unlink()
    options = ("--ckpt_path", folder, "--head_flow.enabled", "false")
    laid("fit", *options, "--model.optimizer.student_lr", 1e-2)
    rates, before = (
        {e.step: e.value for e in events(run).Scalars("lr/student")} for run in (folder, fitted)
    )
    assert rates[10] == pytest.approx(10 * before[10])
    refused = laid("fit", *options, "--data.global_batch_size", 4, code=2)
    assert "begin a new run to change it" in refused.err


def test_mixed_precision_with_clipping(laid, config, work):
    """The full-size configurations' precision."""
    laid(
        "fit", "--config", config, "--name", "bf16", "--trainer.precision", "bf16-mixed",
        "--trainer.max_steps", 2, "--head_flow.per_size", 2,
    )  # fmt: skip
    assert events(work / "runs" / "bf16").Scalars("grad_norm/student")[-1].value > 0


@pytest.mark.slow
def test_two_processes_train_as_one(laid, config, work):
    """Plain data-parallel training: the same haystacks a step, so the same losses."""
    options = ("--config", config, "--head_flow.enabled", "false", "--trainer.max_steps", 4)
    laid("fit", *options, "--name", "one")
    laid("fit", *options, "--name", "two", "--trainer.devices", 2)
    one, two = (losses(work / "runs" / name) for name in ("one", "two"))
    for tag in ("train/loss", "train/laid", "train/kl", "train/sft"):
        assert two[tag] == pytest.approx(one[tag], rel=1e-4), tag
    assert not (work / "runs" / "two-2").exists()
    laid("test", "--ckpt_path", work / "runs" / "two", "--trainer.devices", 2)
    assert (work / "runs" / "two" / "records.jsonl").read_text().count("\n") == 1 + 12


def test_a_run_asked_to_stop_saves_first(start, config, work):
    """Ctrl-C, which a terminal sends to the workers too."""
    name = "stopped"
    process = start(
        "fit", "--config", config, "--name", name, "--checkpoint.every_n_train_steps", 1000,
        "--trainer.max_epochs", 1000,
    )  # fmt: skip
    folder = work / "runs" / name
    deadline = time.monotonic() + 600  # against hanging, whatever else the machine does
    while not any(e.stat().st_size > 5_000 for e in folder.glob("events*")):
        assert process.poll() is None, process.said[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send(signal.SIGINT, group=True)
    done = process.wait()
    assert done.code == 130
    assert f"--trainer.max_epochs 1000 --ckpt_path runs/{name}" in done.err.splitlines()[-1]
    saved = list(folder.glob("checkpoints/*.ckpt"))
    assert len(saved) == 1
    assert find_checkpoint(str(folder), folder.parent).identity["step"] > 0


def test_the_next_run_of_a_name_gets_a_folder_of_its_own(laid, config, fitted, work):
    shutil.copytree(fitted, work / "runs" / "small")
    done = laid("fit", "--config", config, "--trainer.max_steps", 1, "--head_flow.enabled", "false")
    said = [line for line in done.err.splitlines() if line.startswith("laid: ")]
    order = "run runs/small-2", "student ", "12 entries; 1 steps of 2 haystacks on 1 device(s)"
    at = [next(i for i, line in enumerate(said) if words in line) for words in order]
    assert at == sorted(at)
    assert any(line.startswith("laid: 1 steps in ") for line in said)
    assert said[-1] == "laid: to test it: laid test --ckpt_path runs/small-2"
    assert (work / "runs" / "small-2" / "config.yaml").exists()


def test_plain_fine_tuning_needs_no_teacher(laid, config, work):
    laid(
        "fit", "--config", config, "--name", "sft", "--model.teacher", "null",
        "--model.objective.laid.weight", 0, "--model.objective.kl.weight", 0,
        "--trainer.max_steps", 2,
    )  # fmt: skip
    tags = set(events(work / "runs" / "sft").Tags()["scalars"])
    assert "train/sft" in tags
    assert not {"train/laid", "train/kl", "grad_norm/mixing"} & tags


@pytest.mark.slow
def test_losses_do_not_depend_on_the_number_of_workers(laid, config, fitted, work):
    laid(
        "fit", "--config", config, "--name", "workers", "--data.workers", 2,
        "--head_flow.enabled", "false",
    )  # fmt: skip
    assert losses(work / "runs" / "workers") == losses(fitted)


def test_a_runs_settings_can_be_given_again(laid, fitted, work):
    laid(
        "fit", "--config", fitted / "config.yaml", "--name", "again", "--trainer.max_steps", 1,
        "--head_flow.enabled", "false", "--trainer.num_sanity_val_steps", 0,
    )  # fmt: skip
    old, new = (
        yaml.safe_load((run / "config.yaml").read_text())
        for run in (fitted, work / "runs" / "again")
    )
    assert new["model"] == old["model"]
    assert new["data"] == old["data"]
    assert "peak" in laid("plan", "--config", fitted / "config.yaml", "--test_images", 0).out
