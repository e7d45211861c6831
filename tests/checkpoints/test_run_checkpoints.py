"""Which checkpoints a run keeps, and what a resumed one continues from: the real command line."""

import re
import shutil

import pytest
import torch
import yaml

from laid.checkpoints.runs import find_checkpoint

QUICK = ("--head_flow.enabled", "false", "--trainer.limit_val_batches", 0, "--data.workers", 0)


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def place(path):
    """(epoch of the data, entries taken of it, step) of a checkpoint."""
    content = torch.load(path, weights_only=True)
    data = content["HaystackDataModule"]
    return data["epoch"] * 12 + data["taken"], content["global_step"]


@pytest.fixture(scope="module")
def run(laid, config, work):
    """Four of twelve steps, a checkpoint after each."""
    laid("fit", "--config", config, "--name", "branches", *QUICK, "--trainer.max_steps", 4)
    return work / "runs" / "branches"


@pytest.fixture
def copy(run, work, request):
    """The run in a folder of its own."""
    folder = work / "runs" / re.sub(r"\W+", "-", request.node.name)
    shutil.copytree(run, folder)
    return folder


@pytest.mark.slow
def test_a_branch_is_continued_and_the_checkpoint_it_came_from_is_pruned(laid, copy):
    """Moved elsewhere, too: the scores and paths in a checkpoint are of another folder."""
    older = copy / "checkpoints" / "step=2.ckpt"
    laid("fit", "--ckpt_path", older, "--trainer.max_steps", 3, "--checkpoint.save_top_k", 1)
    assert names(copy) == ["step=1.ckpt", "step=3-v1.ckpt", "step=3.ckpt", "step=4.ckpt"]
    assert find_checkpoint(str(copy), copy.parent).path.name == "step=3-v1.ckpt"
    done = laid("fit", "--ckpt_path", copy, "--trainer.max_steps", 5)
    assert "step=3-v1.ckpt" in done.out + done.err
    assert names(copy) == ["step=1.ckpt", "step=3.ckpt", "step=4.ckpt", "step=5.ckpt"]


@pytest.mark.slow
def test_a_checkpoint_names_no_file_for_removal(laid, copy, tmp_path):
    """Lightning removes what the callback's state in the checkpoint calls the worst."""
    victim = tmp_path / "thesis.tex"
    victim.write_text("years of work")
    path = copy / "checkpoints" / "step=4.ckpt"
    content = torch.load(path, weights_only=True)
    content["laid"]["config"] = yaml.safe_dump(
        yaml.safe_load(content["laid"]["config"])
        | {"checkpoint": {"monitor": "train/loss", "save_top_k": 1, "every_n_train_steps": 1}}
    )
    for key in list(content["callbacks"]):
        if key.startswith("RunCheckpoint"):
            state = content["callbacks"].pop(key)
    inside = copy / "checkpoints" / ".." / ".." / ".." / victim
    for evil in (victim, inside):
        state |= {
            "dirpath": str(copy / "checkpoints"),
            "best_k_models": {str(evil): torch.tensor(1e9)},
            "kth_best_model_path": str(evil),
            "best_model_path": str(evil),
            "last_model_path": str(evil),
        }
        for monitor, mode in ((None, "min"), ("train/loss", "min")):
            key = {
                "monitor": monitor, "mode": mode, "every_n_train_steps": 1, "every_n_epochs": 0,
                "train_time_interval": None,
            }  # fmt: skip
            content["callbacks"][f"RunCheckpoint{key!r}"] = dict(state)
        torch.save(content, path)
        laid("fit", "--ckpt_path", path, "--trainer.max_steps", 5)
        assert victim.read_text() == "years of work"
        for later in copy.glob("checkpoints/step=5*"):
            later.unlink()
        torch.save(content, path)


VAL = ("--trainer.limit_val_batches", 1.0, "--trainer.num_sanity_val_steps", 0)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--checkpoint.save_top_k", 0), "checkpoint.save_top_k 0 would keep no checkpoint"),
        (("--checkpoint.filename", "../{step}"), "checkpoint.filename '../{step}': expected"),
        pytest.param(
            ("--checkpoint.filename", "/tmp/a"),
            "checkpoint.filename '/tmp/a': expected",
            marks=SLOW,
        ),
        (("--checkpoint.monitor", "train/los"), "no such metric; there are epoch, "),
        pytest.param(
            ("--checkpoint.monitor", "val/acuracy", *VAL),
            "no such metric; there are epoch, ",
            marks=SLOW,
        ),
        pytest.param(
            ("--checkpoint.monitor", "val/accuracy"), "there is no validation", marks=SLOW
        ),
        pytest.param(
            ("--checkpoint.monitor", "val/accuracy", "--checkpoint.mode", "min"),
            "would keep the worst checkpoints by val/accuracy: expected max",
            marks=SLOW,
        ),
        (
            ("--checkpoint.monitor", "train/loss", "--checkpoint.mode", "max"),
            "would keep the worst checkpoints by train/loss: expected min",
        ),
    ],
)
def test_what_would_keep_nothing_or_the_wrong_ones_is_refused(laid, config, options, message):
    done = laid("fit", "--config", config, "--name", "refused", *QUICK, *options, code=2)
    assert message in done.err
    assert "Traceback" not in done.err


def scores(path):
    """What a checkpoint says of the best: steps with their scores."""
    content = torch.load(path, weights_only=True)
    (state,) = (v for k, v in content["callbacks"].items() if k.startswith("RunCheckpoint"))
    return {
        int(re.findall(r"step=(\d+)", name)[0]): float(score)
        for name, score in state["best_k_models"].items()
    }


@pytest.mark.slow
def test_with_a_monitor_the_best_and_the_last_are_kept(laid, config, work):
    """Validated after every third step; a step that was not validated has no accuracy."""
    options = (
        "--config", config, "--name", "monitored", *QUICK[:2], *VAL, "--data.workers", 0,
        "--trainer.val_check_interval", 3, "--checkpoint.monitor", "val/accuracy",
        "--checkpoint.save_top_k", 1, "--checkpoint.every_n_train_steps", 1,
    )  # fmt: skip
    laid("fit", *options, "--trainer.max_steps", 5)
    run = work / "runs" / "monitored"
    last = run / "checkpoints" / "step=5.ckpt"
    assert list(scores(last)) == [3]
    assert names(run) == ["step=3.ckpt", "step=5.ckpt"]
    assert find_checkpoint(str(run), work).path == last
    laid("fit", "--ckpt_path", run, "--trainer.max_steps", 6)
    last = run / "checkpoints" / "step=6.ckpt"  # validated, and at an epoch's end
    assert set(scores(last)) <= {3, 6}
    assert find_checkpoint(str(run), work).path == last
    laid("fit", "--ckpt_path", run, "--trainer.max_steps", 8)
    assert place(run / "checkpoints" / "step=8.ckpt") == (16, 8)
    kept = {f"step={step}.ckpt" for step in scores(run / "checkpoints" / "step=8.ckpt")}
    assert set(names(run)) == {*kept, "step=8.ckpt"}
    assert len(kept) == 1


@pytest.mark.slow
def test_with_a_monitor_of_every_epoch_in_the_default_rhythm(laid, config, work):
    """Nothing is due before the end: the last state is kept all the same, with its accuracy."""
    options = (
        "--config", config, "--name", "default", *QUICK[:2], *VAL, "--data.workers", 0,
        "--checkpoint.monitor", "val/accuracy", "--checkpoint.save_top_k", 1,
        "--checkpoint.every_n_train_steps", 1000, "--trainer.max_epochs", 1,
    )  # fmt: skip
    laid("fit", *options)
    run = work / "runs" / "default"
    assert names(run) == ["step=6.ckpt"]
    assert list(scores(run / "checkpoints" / "step=6.ckpt")) == [6]
    laid("fit", "--ckpt_path", run, "--trainer.max_epochs", 2)
    assert place(run / "checkpoints" / "step=12.ckpt") == (24, 12)


@pytest.mark.parametrize(
    "both",
    [
        pytest.param(True, marks=pytest.mark.slow, id="with max_epochs"),
        pytest.param(False, id="without"),
    ],
)
@pytest.mark.parametrize(
    "step",
    [
        pytest.param(6, marks=pytest.mark.slow, id="at an epoch's end"),
        pytest.param(9, marks=pytest.mark.slow, id="in mid-epoch"),
    ],
)
def test_a_run_that_max_steps_ended_is_resumed_as_if_it_had_not(laid, config, work, step, both):
    name = f"ended-{step}-{both}"
    fit = (
        "fit", "--config", config, *QUICK, "--trainer.max_epochs", 3 if both else -1,
        "--model.optimizer.schedule", "constant_with_warmup",  # not one of max_steps
        "--model.optimizer.warmup_ratio", 0,
        # One checkpoint, which the end of training writes.
        "--checkpoint.every_n_train_steps", 1000, "--checkpoint.save_top_k", 1,
    )  # fmt: skip
    laid(*fit, "--name", name, "--trainer.max_steps", step)
    run = work / "runs" / name
    for end in (12, 15):  # an epoch's end again
        laid("fit", "--ckpt_path", run, "--trainer.max_steps", end)
        assert names(run) == [f"step={end}.ckpt"]
    assert place(run / "checkpoints" / "step=15.ckpt") == (30, 15)
    laid(*fit, "--name", f"{name}-whole", "--trainer.max_steps", 15)
    whole = work / "runs" / f"{name}-whole"
    one, two = (torch.load(r / "checkpoints/step=15.ckpt", weights_only=True) for r in (run, whole))
    assert one["loops"] == two["loops"]
    assert one["epoch"] == two["epoch"] == 2
    for key, value in one["state_dict"].items():
        assert torch.equal(value, two["state_dict"][key]), key


@pytest.mark.slow
def test_a_resumed_fit_that_takes_no_step_fails(laid, run):
    done = laid("fit", "--ckpt_path", run, code=2)
    assert "nothing was trained: the run is at step 4" in done.err
    assert "to test it: laid test" not in done.out + done.err
