"""Checkpoints that know their run."""

import uuid
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from laid.checkpoints.runs import EMBEDDED
from laid.checkpoints.sharded_checkpoints import read_whole
from laid.common.atomic_files import discard, replacing, sweep
from laid.common.errors import UserError
from laid.distributed.stop_request import StopRequest


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
                raise OSError(
                    f"cannot write the checkpoint {path}: {told}. Is the disk full?"
                ) from None

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_whole(Path(path), self.with_optimizer)

    def remove_checkpoint(self, path: Any) -> None:
        discard(path)


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint``, with three additions.

    Each checkpoint carries the run's settings, so that it can be tested and taken up again from
    the file alone, and an identity of its own. One is written at the end of training, and one when
    the process is asked to stop (SIGTERM, as a cluster sends it). All are written between
    optimizer steps: inside one there are gradients that no checkpoint holds.
    """

    config: str = ""
    """The run's settings as YAML; the command line sets it."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        if self.save_weights_only:
            raise UserError(
                "checkpoint.save_weights_only: such a checkpoint can't be taken up again; to keep "
                "the weights alone, use `laid export`"
            )
        self._stop = StopRequest()

    def begin_after(self, step: int) -> None:
        """Says that a run is taken up after this step, whose checkpoint exists."""
        self._last_global_step_saved = step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.is_global_zero and self.dirpath:
            sweep(Path(self.dirpath))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        identity = {"step": trainer.global_step, "id": uuid.uuid4().hex}
        checkpoint[EMBEDDED] = {"config": self.config, "identity": identity}

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop.listen(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._stop.listen(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        if trainer.state.fn == "fit":
            self._stop.agree(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._between_steps(trainer):
            self._stop.agree(trainer)
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.fast_dev_run and self._last_global_step_saved != trainer.global_step:
            self._save(trainer)
        super().on_train_end(trainer, pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        asked_to_stop = isinstance(exception, SIGTERMException) and trainer.state.fn == "fit"
        if (
            asked_to_stop
            and self._between_steps(trainer)
            and self._last_global_step_saved != trainer.global_step
        ):
            self._save(trainer)
        super().on_exception(trainer, pl_module, exception)

    @staticmethod
    def _between_steps(trainer: Trainer) -> bool:
        return bool(trainer.fit_loop.epoch_loop._accumulated_batches_reached())

    def _save(self, trainer: Trainer) -> None:
        self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
