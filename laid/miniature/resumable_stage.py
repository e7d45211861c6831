"""A training stage that resumes from its last checkpoint after an interruption."""

import io
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from laid.common.atomic_files import atomic_write_bytes


class Stage:
    """The files of one stage: its result, and until it is finished a checkpoint.

    Both also have ``seconds``, the time spent on the stage in all processes.

    Args:
        folder: the work folder.
        name: the stage's name, which is that of its files.
        every: seconds between two checkpoints.
        position: the terminal line of its progress bar.
    """

    def __init__(
        self, folder: Path, name: str, every: float = 60.0, position: int | None = None
    ) -> None:
        self.name, self.every, self.position = name, every, position
        self._result = folder / f"{name}.pt"
        self._checkpoint = folder / f"{name}.checkpoint.pt"
        self._began = self._saved = time.monotonic()

    def result(self) -> dict[str, Any] | None:
        """What ``finish`` saved; None if the stage is not finished."""
        return _read(self._result)

    def checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint; None if there is none. The stage's time counts from here."""
        state = _read(self._checkpoint)
        self._saved = time.monotonic()
        self._began = self._saved - (state["seconds"] if state else 0.0)
        return state

    def bar(self, initial: int, total: int | None = None) -> "tqdm[Any]":
        """A progress bar in steps."""
        bar = partial(tqdm, desc=self.name, unit="step", mininterval=1, position=self.position)
        return bar(initial=initial, total=total)

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self._saved >= self.every

    def keep(self, **state: Any) -> None:
        """Saves a checkpoint, which replaces the last one."""
        self._write(self._checkpoint, state)
        self._saved = time.monotonic()

    def finish(self, **result: Any) -> dict[str, Any]:
        """Saves the result and removes the checkpoint; returns what ``result`` then returns."""
        saved = self._write(self._result, result)
        self._checkpoint.unlink(missing_ok=True)
        return saved

    def _write(self, path: Path, state: dict[str, Any]) -> dict[str, Any]:
        state = {**state, "seconds": time.monotonic() - self._began}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        atomic_write_bytes(path, buffer.getvalue())
        return state


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
