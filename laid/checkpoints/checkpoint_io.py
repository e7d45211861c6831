"""How Lightning writes and reads checkpoints that are one file."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from laid.checkpoints.sharded_checkpoints import read_whole
from laid.common.atomic_files import discard, replacing
from laid.common.disk_space import not_written


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there when it is whole; reads one that
    is a file and one that is a folder alike.

    Lightning's own collects it in memory first (twice its size), writes it to the system's
    temporary folder, and copies it from there: killed in the copy, half a file bears the name.
    """

    def __init__(self, with_optimizer: bool = True):
        """
        Args:
            with_optimizer: whether its state is wanted of a checkpoint; only to train on.
        """
        super().__init__()
        self.with_optimizer = with_optimizer

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        with replacing(path) as file:
            try:
                torch.save(checkpoint, file)
            except (OSError, RuntimeError) as reason:  # torch hides the first behind the second
                told = reason.__context__ or reason
                raise not_written(f"the checkpoint {path}", told, Path(path)) from None

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_whole(Path(path), self.with_optimizer)

    def remove_checkpoint(self, path: Any) -> None:
        discard(path)
