"""Checkpoints that know their run."""

import uuid
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from laid.runs import EMBEDDED


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint``, with three additions.

    Each checkpoint carries the run's settings, so that it can be tested and taken up again from
    the file alone, and an identity of its own. One is written at the end of training, and one when
    the process is asked to stop (SIGTERM, as a cluster sends it), both between optimizer steps.
    """

    config: str = ""
    """The run's settings as YAML; the command line sets it."""

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        identity = {"step": trainer.global_step, "id": uuid.uuid4().hex}
        checkpoint[EMBEDDED] = {"config": self.config, "identity": identity}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        if self._last_global_step_saved != trainer.global_step:
            self._save(trainer)
        super().on_train_end(trainer, pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        # In the middle of an accumulation there are gradients that a checkpoint does not hold:
        # then the last regular one is the place to go on from.
        between_steps = trainer.fit_loop.epoch_loop._accumulated_batches_reached()
        if isinstance(exception, SIGTERMException) and between_steps and trainer.global_step > 0:
            self._save(trainer)
        super().on_exception(trainer, pl_module, exception)

    def _save(self, trainer: Trainer) -> None:
        candidates = self._monitor_candidates(trainer)
        self._save_topk_checkpoint(trainer, candidates)
