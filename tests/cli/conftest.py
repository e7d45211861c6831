"""The real command line, in processes of its own, on a drawn COCO and models with weights."""

import logging
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from command_line.commands import Done, Running, Server

from laid.cli.main import main

HANDLED = (signal.SIGTERM, signal.SIGINT)
Laid = Callable[..., Done]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a module's commands run in: no other module's run has its names there."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def laid(server: Server, work: Path) -> Laid:
    """Runs ``laid ARGS``; fails the test unless it exits as expected."""

    def run(*args: object, code: int = 0) -> Done:
        done = Running(server, args, work / "logs", work).wait()
        assert done.code == code, str(done)
        return done

    return run


@pytest.fixture
def run(work, monkeypatch, capsys):
    """Runs ``laid ARGS`` in this process; gives the exit code and what it wrote to stderr."""
    monkeypatch.chdir(work)
    # Lightning's log handler holds the stderr of the test that imported it.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    handlers = [signal.getsignal(number) for number in HANDLED]

    def call(*args):
        code = 0
        try:
            main([str(arg) for arg in args])
        except SystemExit as end:
            code = end.code
        assert [signal.getsignal(number) for number in HANDLED] == handlers
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return code, error

    return call


@pytest.fixture
def start(server: Server, work: Path) -> Iterator[Callable[..., Running]]:
    """Starts ``laid ARGS`` in a process group of its own, which ends with the test."""
    started = []

    def begin(*args: object) -> Running:
        started.append(Running(server, args, work / "logs", work))
        return started[-1]

    yield begin
    for running in started:
        running.send(signal.SIGKILL, group=True)


@pytest.fixture(scope="module")
def config(work: Path, drawn: Path, pair: tuple[Path, Path]) -> Path:
    """Two epochs of six steps, each of two haystacks one by one."""
    return write_config(work, drawn, pair)


def write_config(folder: Path, drawn: Path, pair: tuple[Path, Path]) -> Path:
    content = {
        "name": "small",
        "model": {
            "student": {"path": str(pair[0])},
            "teacher": {"path": str(pair[1])},
            "optimizer": {"student_lr": 1e-3, "mixing_lr": 1e-2},
            "max_new_tokens": 3,
        },
        "data": {
            "coco_root": str(drawn),
            "train": {"entries": 12, "min_size": 2, "max_size": 3},
            "validate": {"sizes": [2], "per_size": 2},
            "test": {"split": "test2017", "sizes": [1, 2, 4], "per_size": 4},
            "batch_size": 1,
            "global_batch_size": 2,
            "eval_batch_size": 3,
            "workers": 1,
        },
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 2,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "gradient_clip_val": 1.0,
        },
        "checkpoint": {"every_n_train_steps": 1, "save_top_k": -1},
        "head_flow": {"sizes": [1, 2], "per_size": 2},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="session")
def fitted(
    server: Server, drawn: Path, pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A finished run's folder, which every module reads and none writes in."""
    place = tmp_path_factory.mktemp("fitted")
    words = ("fit", "--config", write_config(place, drawn, pair))
    done = Running(server, words, place / "logs", place).wait()
    assert done.code == 0, str(done)
    folder = place / "runs" / "small"
    before = states(folder)
    yield folder
    assert states(folder) == before, "a test wrote in the run that all modules share"


@pytest.fixture(scope="module")
def own_run(fitted: Path, work: Path) -> Path:
    """A copy of the finished run, for a module that writes in it."""
    folder = work / "own" / fitted.name
    shutil.copytree(fitted, folder)
    return folder


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}
