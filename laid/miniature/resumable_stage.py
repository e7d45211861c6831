"""A training stage that a killed process takes up again where it was."""

import io
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from laid.common.atomic_files import atomic_write_bytes


class Stage:
    """The files of one stage: its result, and until there is one a checkpoint.

    Args:
        folder: the work folder.
        name: the stage's name, which is that of its files.
        every: seconds between two checkpoints.
        position: the line of the terminal that its progress bar takes.
    """

    def __init__(
        self, folder: Path, name: str, every: float = 60.0, position: int | None = None
    ) -> None:
        self.name = name
        self.every = every
        self.position = position
        self._result = folder / f"{name}.pt"
        self._checkpoint = folder / f"{name}.checkpoint.pt"
        self._saved_at = time.monotonic()

    def result(self) -> dict[str, Any] | None:
        """What ``finish`` was given; None where the stage is not finished."""
        return _read(self._result)

    def checkpoint(self) -> dict[str, Any] | None:
        """The newest state that was kept; None where the stage begins."""
        self._saved_at = time.monotonic()
        return _read(self._checkpoint)

    def bar(self, initial: int, total: int | None = None) -> "tqdm[Any]":
        """A progress bar in steps."""
        return tqdm(
            desc=self.name,
            initial=initial,
            total=total,
            unit="step",
            mininterval=1,
            position=self.position,
        )

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self._saved_at >= self.every

    def keep(self, state: dict[str, Any]) -> None:
        """Saves a checkpoint in place of the last one."""
        _write(self._checkpoint, state)
        self._saved_at = time.monotonic()

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Saves the result and removes the checkpoint."""
        _write(self._result, result)
        self._checkpoint.unlink(missing_ok=True)
        return result


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _write(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    atomic_write_bytes(path, buffer.getvalue())
