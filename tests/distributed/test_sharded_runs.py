"""Checkpoints in pieces: taken up by any number of ranks, tested, exported, and never half."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from laid.checkpoints.runs import find_checkpoint
from laid.checkpoints.sharded_checkpoints import read_whole
from laid.vlm.families.qwen2_5_vl import Qwen25VL

TAGS = ("train/loss", "train/laid", "train/kl", "train/sft")
QUICK = ("--head_flow.enabled", "false", "--trainer.limit_val_batches", 0, "--data.workers", 0)
TWO = ("--trainer.strategy", "laid_fsdp", "--trainer.devices", 2)


def losses(folder):
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    board.Reload()
    return {tag: {e.step: e.value for e in board.Scalars(tag)} for tag in TAGS}


def step_of(path):
    return int(re.findall(r"step=(\d+)", path.name)[0])


def records(folder):
    return (folder / "records.jsonl").read_text().splitlines()[1:]


@pytest.fixture(scope="module")
def sharded(laid, config, work):
    """A finished run on two ranks; its checkpoints are folders."""
    laid("fit", "--config", config, "--name", "sharded", *QUICK, *TWO)
    return work / "runs" / "sharded"


def test_a_new_user_trains_and_tests_on_two_processes(laid, config, work):
    done = laid(
        "fit", "--config", config, "--name", "new", *TWO, "--trainer.accelerator", "cpu",
        "--trainer.max_steps", 2, "--head_flow.per_size", 2, "--trainer.val_check_interval", 2,
        "--spectrum.enabled", "true", "--spectrum.sizes", "[1]", "--spectrum.per_size", 2,
    )  # fmt: skip
    assert "laid: to test it: laid test --ckpt_path runs/new" in done.err
    assert (work / "runs" / "new" / "checkpoints" / "step=2.ckpt" / "meta.pt").exists()
    assert (work / "runs" / "new" / "figures" / "head_flow.png").exists()
    assert (work / "runs" / "new" / "figures" / "spectrum.png").exists()
    laid("test", "--ckpt_path", "last", "--name", "new", "--data.test.sizes", "[1]")
    assert len(records(work / "runs" / "new")) == 4


def begin_at(run, step, work, name):
    """A copy of a run that has got no further than a step."""
    folder = work / "runs" / name
    shutil.copytree(run, folder)
    for path in folder.glob("events*"):
        path.unlink()
    for path in folder.glob("checkpoints/*"):
        if step_of(path) > step:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("step", [5, 6], ids=["in mid-epoch", "at an epoch's end"])
@pytest.mark.parametrize("how", ["1", "2", "one process, whole"])
def test_a_run_goes_on_with_other_ranks(laid, config, sharded, work, step, how):
    folder = begin_at(sharded, step, work, f"from-{step}-to-{how[:3]}")
    options = ("--trainer.devices", 1, "--trainer.strategy", "auto")
    if how.isdigit():
        options = ("--trainer.devices", how)
    laid("fit", "--ckpt_path", folder, *options)
    whole, resumed = losses(sharded), losses(folder)
    for tag in TAGS:
        assert sorted(resumed[tag]) == list(range(step, 12))
        for at, value in resumed[tag].items():
            assert value == pytest.approx(whole[tag][at], abs=1e-5), (tag, at)


@pytest.mark.slow
def test_two_ranks_to_four_and_a_file_to_four(laid, config, work):
    options = ("--config", config, *QUICK, "--data.global_batch_size", 4)
    laid("fit", *options, "--name", "of-two", *TWO)
    laid("fit", *options, "--name", "of-one")
    four = ("--trainer.strategy", "laid_fsdp", "--trainer.devices", 4)
    whole = losses(work / "runs" / "of-one")
    for name in ("of-two", "of-one"):
        folder = begin_at(work / "runs" / name, 2, work, f"{name}-to-four")
        laid("fit", "--ckpt_path", folder, *four)
        for tag, values in losses(folder).items():
            assert sorted(values) == [2, 3, 4, 5]
            for at, value in values.items():
                assert value == pytest.approx(whole[tag][at], abs=1e-5), (tag, at)


@pytest.mark.slow
def test_two_ranks_give_the_records_of_one_without_the_teacher(laid, config, sharded, work, pair):
    """A whole model on each rank, and sharded; of six entries four ranks ask two twice."""
    options = ("--ckpt_path", sharded, "--data.eval_batch_size", 1, "--data.test.per_size", 2)
    hidden = pair[1].with_name("hidden-teacher")
    os.rename(pair[1], hidden)
    try:
        laid("test", *options, "--results", work / "by-one")
        laid("test", *options, "--results", work / "by-two", "--trainer.devices", 2)
        laid("test", *options, "--results", work / "by-shards", *TWO[:-1], 4)
        accuracy = {
            ranks: re.findall(r"val/accuracy\S*\s+│\s+([\d.]+)", done.out)
            for ranks, done in (
                (1, laid("validate", "--ckpt_path", sharded)),
                (2, laid("validate", "--ckpt_path", sharded, *TWO)),
            )
        }
    finally:
        os.rename(hidden, pair[1])
    assert records(work / "by-one") == records(work / "by-two") == records(work / "by-shards")
    assert len(records(work / "by-one")) == 6
    results = json.loads((work / "by-two" / "results.json").read_text())
    assert [cell["n"] for cell in results["by_size"].values()] == [2, 2, 2]
    assert accuracy[1] == accuracy[2] != []


@pytest.mark.slow
def test_predictions_of_two_ranks_are_those_of_one(laid, sharded, drawn, work):
    laid(
        "data", "build", "--coco_root", drawn, "--out", "odd", "--train_entries", 2,
        "--test_per_size", 2, "--sizes", "[1, 2]", "--max_size", 3,
    )  # fmt: skip
    content = json.loads((work / "odd" / "test_1.json").read_text())
    (work / "odd" / "three.json").write_text(
        json.dumps(content + json.loads((work / "odd" / "test_2.json").read_text())[:1])
    )
    options = ("--ckpt_path", sharded, "--data.predict.source", "odd/three.json")
    for name, ranks in (("one", ()), ("two", TWO)):
        laid("predict", *options, *ranks, "--results", work / name)
    one, two = ((work / name / "predictions.jsonl").read_text() for name in ("one", "two"))
    assert one == two
    assert one.count("\n") == 3


@pytest.mark.slow
def test_export_of_a_folder_and_of_its_weights_in_a_file(laid, sharded, work):
    laid("export", "--ckpt_path", sharded, "--out", "exported-shards")
    found = find_checkpoint(str(sharded), sharded.parent)
    state = read_whole(found.path)["state_dict"]
    written = load_file(work / "exported-shards" / "model.safetensors")
    assert written
    ours = {key.removeprefix("student.hf."): value for key, value in state.items()}
    for key, value in written.items():
        assert torch.equal(value, ours[Qwen25VL.parameter_name(key)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "setting"),
    [("lora", ("--model.lora.rank", 4)), ("rope_gain", ("--model.rope_gain.layers", "all"))],
)
def test_what_is_added_is_trained_on_two_ranks_goes_on_and_is_tested_and_exported_on_one(
    laid, config, work, name, setting
):
    options = ("--config", config, *setting, *QUICK)
    laid("fit", *options, "--name", f"{name}-two", *TWO)
    laid("fit", *options, "--name", f"{name}-one")
    of_two, of_one = work / "runs" / f"{name}-two", work / "runs" / f"{name}-one"
    state = read_whole(find_checkpoint(str(of_two), work).path)["state_dict"]
    added = [key for key in state if f".{name}" in key]
    assert added
    if name == "lora":
        assert all(key in added or key.startswith("objective.") for key in state)
    alone = ("--trainer.devices", 1, "--trainer.strategy", "auto")
    for run, how in ((of_two, alone), (of_one, TWO)):  # a folder to a process, a file to two
        folder = begin_at(run, 5, work, f"{run.name}-goes-on")
        laid("fit", "--ckpt_path", folder, *how)
        for tag, values in losses(folder).items():
            assert sorted(values) == list(range(5, 12))
            for at, value in values.items():
                assert value == pytest.approx(losses(of_one)[tag][at], abs=1e-5), (tag, at)
    laid("test", "--ckpt_path", of_two)
    laid("test", "--ckpt_path", of_two, *TWO, "--results", work / f"{name}-by-two")
    assert records(of_two) == records(work / f"{name}-by-two") != []
    laid("export", "--ckpt_path", of_two, "--out", f"{name}-exported")
    laid(
        "test", "--config", config, "--model.student.path", work / f"{name}-exported",
        "--results", work / f"{name}-by-export",
    )  # fmt: skip
    assert records(work / f"{name}-by-export") == records(of_two)


def alive(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def started(start, config, work):
    """Starts a long run on two ranks; gives the process, the other rank's id, and its folder."""

    def begin(name, *options):
        process = start(
            "fit", "--config", config, "--name", name, *QUICK, *TWO,
            "--trainer.max_epochs", 1000, *options,
        )  # fmt: skip
        folder = work / "runs" / name
        wait_for(lambda: list(folder.glob("checkpoints/step=*")), process)
        found = subprocess.run(
            ["ps", "--ppid", str(process.pid), "-o", "pid=,args="], capture_output=True, text=True
        )
        rank_1 = next(int(line.split()[0]) for line in found.stdout.splitlines() if "fit" in line)
        return process, rank_1, folder

    return begin


def wait_for(condition, process=None, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None:
            assert process.poll() is None, process.said[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["rank 0", "rank 1", "all"])
def test_killed_ranks_lose_nothing_but_the_steps_since_the_last_checkpoint(
    laid, started, who, work
):
    process, rank_1, folder = started(f"killed-{who[-1]}")
    victims = {"rank 0": [process.pid], "rank 1": [rank_1], "all": [process.pid, rank_1]}[who]
    wait_for(lambda: len(list(folder.glob("checkpoints/step=*"))) > 2, process)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: process.poll() is not None and not alive(rank_1), seconds=60)
    if who != "all":
        assert f"{who} died without reporting an error" in process.wait().err
    last = find_checkpoint(str(folder), folder.parent).identity["step"]
    assert last >= 2
    laid("fit", "--ckpt_path", folder, "--trainer.max_epochs", -1, "--trainer.max_steps", last + 2)
    assert find_checkpoint(str(folder), folder.parent).identity["step"] == last + 2
    assert not list(folder.glob("checkpoints/.*.tmp"))


@pytest.mark.slow
def test_killed_during_a_save_the_checkpoint_before_it_is_the_last(laid, started):
    process, rank_1, folder = started("killed-save")
    # The temporary folder stands while a save is under way.
    wait_for(lambda: list(folder.glob("checkpoints/.step=*.tmp/*.distcp")), process)
    for pid in (process.pid, rank_1):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: process.poll() is not None and not alive(rank_1), seconds=60)
    last = find_checkpoint(str(folder), folder.parent)
    assert last.identity["step"] == max(map(step_of, folder.glob("checkpoints/step=*")))
    laid(
        "fit", "--ckpt_path", last.path, "--trainer.max_epochs", -1,
        "--trainer.max_steps", last.identity["step"] + 1,
    )  # fmt: skip
    assert not list(folder.glob("checkpoints/.*.tmp"))


@pytest.mark.slow
def test_a_run_asked_to_stop_saves_on_all_ranks_first(started):
    process, rank_1, folder = started("asked", "--checkpoint.every_n_train_steps", 3)
    before = max(map(step_of, folder.glob("checkpoints/step=*")))
    process.send(signal.SIGTERM)
    wait_for(lambda: process.poll() is not None and not alive(rank_1), seconds=60)
    last = find_checkpoint(str(folder), folder.parent)
    assert last.identity["step"] >= before
    done = process.wait()
    assert done.code == 143
    assert "died" not in done.err
    assert "--ckpt_path runs/asked" in done.err.splitlines()[-1]
    place = read_whole(last.path)["HaystackDataModule"]
    assert place["epoch"] * 12 + place["taken"] == 2 * last.identity["step"]
