"""Micro-batch and gradient accumulation, derived from the global batch size."""

import logging
from typing import Any

from lightning import Callback, LightningModule, Trainer

from laid.common.errors import UserError

log = logging.getLogger(__name__)


class GlobalBatch(Callback):
    """Sets ``accumulate_grad_batches`` so that an optimizer step has ``global_batch_size``
    haystacks on any number of devices.

    The paper states a global batch of 8 and, in the same sentence, 1 x 8 accumulation on 4 GPUs,
    which is 32; we keep the global 8 (docs/paper.md).
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        data = trainer.datamodule
        if data.pack_tokens is not None:
            accumulation = self._packed(trainer, data)
        else:
            accumulation = self._padded(trainer, data)
        if trainer.accumulate_grad_batches not in (1, accumulation):
            raise UserError(
                f"trainer.accumulate_grad_batches {trainer.accumulate_grad_batches} contradicts "
                f"data.global_batch_size {data.global_batch_size}, from which {accumulation} "
                "follows: leave it out"
            )
        trainer.accumulate_grad_batches = accumulation

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Once the batches of an epoch are counted.

        Raises:
            UserError: an epoch ends within an optimizer step, which would have fewer haystacks.
        """
        batches, step = trainer.num_training_batches, trainer.accumulate_grad_batches
        if batches % step and not trainer.fast_dev_run:
            name = "overfit_batches" if trainer.overfit_batches else "limit_train_batches"
            raise UserError(
                f"trainer.{name} {getattr(trainer, name)}: {batches} micro-batches an epoch, and a "
                f"step of data.global_batch_size has {step}; expected a multiple of {step}, or "
                "data.train.entries and trainer.max_steps for a short run"
            )

    def _packed(self, trainer: Trainer, data: Any) -> int:
        if trainer.overfit_batches:
            raise UserError(
                f"trainer.overfit_batches {trainer.overfit_batches} and data.pack_tokens: expected "
                "one of them; to train on few haystacks, set data.train.entries"
            )
        if data.batch_size > 1:
            log.info("data.pack_tokens takes the place of data.batch_size %d", data.batch_size)
        rounds: int = data.packing.rounds
        return rounds

    def _padded(self, trainer: Trainer, data: Any) -> int:
        micro_batch, accumulation = split_global_batch(
            data.global_batch_size, data.batch_size, trainer.world_size
        )
        if micro_batch != data.batch_size:
            data.batch_size = micro_batch
            split = f"{data.global_batch_size} is split over {trainer.world_size} devices"
            text = "micro-batches of %d rather than data.batch_size: data.global_batch_size %s"
            log.info(text, micro_batch, split)
        return accumulation

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Converts a resumed run's count of batches to this number of devices.

        Lightning counts the batches of one device, and resumes at that count whatever the number of
        devices is now. Checkpoints are saved between optimizer steps, so the steps determine it.
        """
        steps = checkpoint["global_step"]
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        before = progress["total"]["ready"]
        if trainer.state.fn != "fit" or not steps:
            return
        now = steps * trainer.accumulate_grad_batches
        for counts in (progress["total"], progress["current"]):
            ready = counts["ready"] * now // before
            # "started", "processed" and "completed" stay as far behind "ready" as they were.
            behind = {name: counts["ready"] - count for name, count in counts.items()}
            counts.update({name: ready - count for name, count in behind.items()})


def split_global_batch(global_batch: int, micro_batch: int, ranks: int) -> tuple[int, int]:
    """How an optimizer step's haystacks are split over ranks and gradient accumulation.

    Args:
        global_batch: haystacks of an optimizer step, over all ranks.
        micro_batch: haystacks of a rank's forward pass, where there are enough.

    Returns:
        The micro-batch (smaller where a rank's share is smaller), and the accumulation steps.

    Raises:
        UserError: they can't be split evenly.
    """
    if ranks > 1 and micro_batch <= global_batch < micro_batch * ranks:
        micro_batch = max(1, global_batch // ranks)
    at_once = micro_batch * ranks
    if global_batch % at_once:
        raise UserError(
            f"data.global_batch_size {global_batch} is not divisible by data.batch_size "
            f"{micro_batch} x {ranks} devices = {at_once}: choose a multiple of {at_once}"
        )
    return micro_batch, global_batch // at_once
