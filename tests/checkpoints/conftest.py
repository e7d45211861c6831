"""The real command line, and checkpoints small enough to damage in every place."""

import pickle
from pathlib import Path

import pytest
import torch
from cli.conftest import config, laid, start, work  # noqa: F401  # the fixtures of tests/cli

from laid.checkpoints.runs import EMBEDDED, FORMAT
from laid.checkpoints.sharded_checkpoints import save_sharded


class Marker:
    """Unpickled without care, it makes a file: what a hostile file would do its harm with."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A path where no file must be after hostile content was read."""
    return tmp_path / "code-was-run"


@pytest.fixture
def hostile(marker: Path) -> bytes:
    """A pickle that runs code when it is unpickled."""
    content = pickle.dumps(Marker(marker), protocol=2)
    pickle.loads(content).close()  # it works
    marker.unlink()
    return content


def content(step: int = 1, **identity: object) -> dict:
    """A checkpoint with weights, an optimizer's state and settings."""
    torch.manual_seed(step)
    return {
        "state_dict": {"student.a": torch.randn(40, 7), "student.b": torch.randn(5)},
        "optimizer_states": [
            {
                "state": {"student.a": {"step": torch.tensor(3.0), "exp_avg": torch.randn(40, 7)}},
                "param_groups": [{"lr": 0.5, "betas": (0.9, 0.95), "params": ["student.a"]}],
            }
        ],
        "global_step": step,
        EMBEDDED: {
            "format": FORMAT,
            "config": "name: tiny",
            "identity": {"step": step, "id": str(step), **identity},
        },
    }


def write_folder(path: Path, step: int = 1, **identity: object) -> Path:
    """A sharded checkpoint, of one process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_sharded(content(step, **identity), path)
    return path


def write_file(path: Path, step: int = 1, **identity: object) -> Path:
    """A checkpoint that is one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content(step, **identity), path)
    return path
