"""Commands that SIGTERM, Ctrl-C or an error ends: exit codes, what is kept, and how to resume."""

import os
import re
import shlex
import shutil
import signal

import pytest
import torch
from cli.interruption import OPTION, Interruption

import laid.cli.export_command
import laid.data.build_command
from laid.checkpoints.runs import find_checkpoint

QUICK = ("--head_flow.enabled", "false", "--trainer.limit_val_batches", 0, "--data.workers", 0)
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.fixture
def interrupt(monkeypatch):
    """Sets what happens after the batch of a number (from 0)."""

    def at(number, act):
        monkeypatch.setattr(Interruption, "at", number)
        monkeypatch.setattr(Interruption, "act", act and staticmethod(act))

    return at


def command_in(error):
    """The words of the command that a message says to resume with."""
    return shlex.split(re.findall(r"To (?:resume|begin again): laid (.*)", error)[-1])


def same_end(one, two):
    """Whether two runs' last checkpoints hold the same."""
    first, second = (
        torch.load(find_checkpoint(str(run), run.parent).path, weights_only=True)
        for run in (one, two)
    )
    assert first["loops"] == second["loops"]
    assert first["HaystackDataModule"] == second["HaystackDataModule"]
    for key, value in second["state_dict"].items():
        assert torch.equal(first["state_dict"][key], value), key


FIT = (*QUICK, "--checkpoint.every_n_train_steps", 1000, "--data.global_batch_size", 4)


@pytest.fixture(scope="module")
def whole(laid, config, work):
    """Two epochs of three steps, each of four haystacks one by one."""
    laid("fit", "--config", config, "--name", "whole", *FIT)
    return work / "runs" / "whole"


@pytest.mark.parametrize(
    ("number", "batch"),
    [(signal.SIGTERM, 5), (signal.SIGINT, 11), (signal.SIGTERM, 15)],
    ids=["in mid-step", "at an epoch's end", "in the second epoch"],
)
def test_a_stopped_fit_saves_its_last_step_and_says_how_to_resume(
    run, interrupt, config, whole, number, batch
):
    interrupt(batch, lambda: send(number))
    code, error = run("fit", "--config", config, "--name", f"stop-{batch}", *FIT, *OPTION)
    assert code == CODES[number]
    folder = whole.with_name(f"stop-{batch}")
    (saved,) = (folder / "checkpoints").iterdir()
    assert find_checkpoint(str(saved), folder).identity["step"] == (batch + 1) // 4
    interrupt(0, None)
    assert run(*command_in(error))[0] == 0
    same_end(folder, whole)


def test_a_second_ctrl_c_stops_at_once_and_nothing_half_done_is_saved(
    run, interrupt, config, whole
):
    interrupt(5, lambda: send(signal.SIGINT, signal.SIGINT))
    code, error = run("fit", "--config", config, "--name", "twice-ctrl-c", *FIT, *OPTION)
    assert code == 130
    assert "No checkpoint was written yet" in error
    assert not list(whole.with_name("twice-ctrl-c").glob("checkpoints/*"))


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_stopped_test_keeps_its_records_and_is_resumed(run, interrupt, whole, tmp_path, number):
    interrupt(1, lambda: send(number))
    options = ("--ckpt_path", whole, *OPTION, "--results", tmp_path, "--data.eval_batch_size", 2)
    code, error = run("test", *options)
    assert code == CODES[number]
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 1 + 2 * 2
    assert not (tmp_path / "results.json").exists()
    interrupt(0, None)
    code, error = run(*command_in(error))
    assert code == 0
    assert "4 of 12 entries are answered already" in error
    assert (tmp_path / "results.json").exists()


@pytest.mark.parametrize("command", ["validate", "predict"])
def test_other_commands_stop_too(run, interrupt, config, drawn, command):
    options = {
        "validate": ("--data.eval_batch_size", 1),
        "predict": ("--data.predict.images", drawn / "val2017", "--data.predict.question", "A?"),
    }[command]
    interrupt(0, lambda: send(signal.SIGTERM))
    code, error = run(command, "--config", config, *OPTION, *options)
    # A single batch is finished, and with it the work.
    assert (code, "To begin again" in error) == (
        (143, True) if command == "validate" else (0, False)
    )


def test_a_signal_after_the_last_batch_was_begun_leaves_the_work_done(run, interrupt, whole):
    interrupt(0, lambda: send(signal.SIGTERM))
    options = ("--ckpt_path", whole, *OPTION, "--data.eval_batch_size", 12)
    assert run("test", *options, "--results", whole / "again")[0] == 0
    assert (whole / "again" / "results.json").exists()


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("command", ["export", "data build"])
def test_a_stopped_command_leaves_nothing(
    run, whole, drawn, tmp_path, monkeypatch, command, number
):
    options = {
        "export": ("--ckpt_path", whole),
        "data build": (
            "--coco_root",
            drawn,
            "--train_entries",
            4,
            "--sizes",
            "[]",
            "--max_size",
            3,
        ),
    }[command]
    module, name = {
        "export": (laid.cli.export_command, "write_processor"),
        "data build": (laid.data.build_command, "write_vhs"),
    }[command]
    monkeypatch.setattr(module, name, lambda *args: send(number))
    code, error = run(*command.split(), *options, "--out", tmp_path / "out")
    assert code == CODES[number]
    assert error.strip().splitlines()[-1].startswith("laid: stopped by ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(6, id="in mid-step"),
        pytest.param(8, id="between two", marks=pytest.mark.slow),
    ],
)
def test_a_bad_image_in_mid_training_costs_no_step(
    run, interrupt, config, drawn, whole, tmp_path, batch
):
    images, hidden = tmp_path / "coco" / "train2017", tmp_path / "hidden"
    shutil.copytree(drawn, tmp_path / "coco")

    def damage():
        os.rename(images, hidden)
        images.mkdir()
        for path in hidden.iterdir():
            (images / path.name).write_bytes(path.read_bytes()[:300])

    interrupt(batch - 1, damage)
    name = f"bad-image-{batch}"
    options = ("--data.coco_root", tmp_path / "coco", *FIT, *OPTION)
    code, error = run("fit", "--config", config, "--name", name, *options)
    assert code == 2
    assert error.strip().splitlines()[-1].startswith("laid: error: image ")
    folder = whole.with_name(name)
    assert find_checkpoint(str(folder), folder).identity["step"] == batch // 4
    shutil.rmtree(images)
    os.rename(hidden, images)
    interrupt(0, None)
    assert run("fit", "--ckpt_path", folder)[0] == 0
    same_end(folder, whole)
