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


def test_a_branch_is_continued_and_the_checkpoint_it_came_from_is_pruned(laid, copy):
    """Moved elsewhere, too: the scores and paths in a checkpoint are of another folder."""
    older = copy / "checkpoints" / "step=2.ckpt"
    laid("fit", "--ckpt_path", older, "--trainer.max_steps", 3, "--checkpoint.save_top_k", 1)
    assert names(copy) == ["step=1.ckpt", "step=3-v1.ckpt", "step=3.ckpt", "step=4.ckpt"]
    assert find_checkpoint(str(copy), copy.parent).path.name == "step=3-v1.ckpt"
    done = laid("fit", "--ckpt_path", copy, "--trainer.max_steps", 5)
    assert "step=3-v1.ckpt" in done.stdout.splitlines()[0]
    assert names(copy) == ["step=1.ckpt", "step=3.ckpt", "step=4.ckpt", "step=5.ckpt"]


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
