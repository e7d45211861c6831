"""A training stage that resumes from its last checkpoint after an interruption."""

import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from laid.common.atomic_files import replacing


class Stage:
    """The files of one stage: its result, and until it is finished a checkpoint.

    Args:
        folder: the work folder.
        name: the stage's name, which is that of its files.
        every: seconds between two checkpoints.
        position: the terminal line of its progress bar.
    """

    def __init__(self, folder: Path, name: str, every: float = 60.0, position: int | None = None):
        self.name, self.every, self.position = name, every, position
        self._result = folder / f"{name}.pt"
        self._checkpoint = folder / f"{name}.checkpoint.pt"
        self._began = self._saved = time.monotonic()

    def result(self) -> dict[str, Any] | None:
        """What ``finish`` saved, and ``seconds``, the time spent on the stage in all processes;
        None if the stage is not finished."""
        return _read(self._result)

    def resume(self, *parts: Any) -> dict[str, Any]:
        """Loads the last checkpoint into modules, optimizers and generators; returns what else was
        kept in it, nothing at the beginning. The stage's time counts from here."""
        kept = _read(self._checkpoint) or {"parts": [], "seconds": 0.0}
        for part, state in zip(parts, kept["parts"], strict=False):
            load = part.set_state if isinstance(part, torch.Generator) else part.load_state_dict
            load(state)
        self._saved = time.monotonic()
        self._began = self._saved - kept["seconds"]
        return kept

    def keep(self, *parts: Any, **more: Any) -> None:
        """Saves a checkpoint in place of the last one, when it is time for it."""
        if time.monotonic() - self._saved >= self.every:
            states = [
                part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
                for part in parts
            ]
            self._write(self._checkpoint, parts=states, **more)
            self._saved = time.monotonic()

    def bar(self, initial: int, total: int | None = None) -> "tqdm[Any]":
        return tqdm(None, self.name, total, initial=initial, unit="step", position=self.position)

    def finish(self, **result: Any) -> dict[str, Any]:
        """Saves the result and removes the checkpoint; returns what ``result`` then returns."""
        saved = self._write(self._result, **result)
        self._checkpoint.unlink(missing_ok=True)
        return saved

    def _write(self, path: Path, **state: Any) -> dict[str, Any]:
        state["seconds"] = time.monotonic() - self._began
        with replacing(path) as file:
            torch.save(state, file)
        return state


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
