"""Gradient accumulation, derived from the global batch size."""

import logging
from typing import Any

from lightning import Callback, LightningModule, Trainer

from laid.common.errors import UserError

log = logging.getLogger(__name__)


class GlobalBatch(Callback):
    """Sets ``accumulate_grad_batches`` so that an optimizer step sees ``global_batch_size``
    haystacks, whatever the number of devices.

    The paper states a global batch of 8 and, in the same sentence, 1 x 8 accumulation on 4 GPUs,
    which is 32; we keep the global 8 (docs/paper.md).
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        data = trainer.datamodule
        each, derived = share_out(data.global_batch_size, data.batch_size, trainer.world_size)
        if each != data.batch_size:
            data.batch_size = each
            log.info(
                "%d haystacks on a device at a time rather than data.batch_size: %d devices share "
                "data.global_batch_size %d",
                each,
                trainer.world_size,
                data.global_batch_size,
            )
        if trainer.accumulate_grad_batches not in (1, derived):
            raise UserError(
                f"trainer.accumulate_grad_batches {trainer.accumulate_grad_batches} contradicts "
                f"data.global_batch_size {data.global_batch_size}, from which {derived} follows: "
                "leave it out"
            )
        trainer.accumulate_grad_batches = derived

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Counts the batches of a run that is taken up again as this number of devices has them.

        Lightning counts the batches of one device, and goes on at that number whatever the devices
        are now. Checkpoints are made between steps, so the steps say how many batches they are.
        """
        steps = checkpoint["global_step"]
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        before = progress["total"]["ready"]
        if trainer.state.fn != "fit" or not steps:
            return
        now = steps * trainer.accumulate_grad_batches
        for counts in (progress["total"], progress["current"]):
            ready = counts["ready"] * now // before
            # How far a batch had come when the checkpoint was made stays as it was.
            behind = {name: counts["ready"] - count for name, count in counts.items()}
            counts.update({name: ready - count for name, count in behind.items()})


def share_out(wanted: int, each: int, ranks: int) -> tuple[int, int]:
    """How an optimizer step's haystacks are dealt out.

    Args:
        wanted: haystacks of the step over all ranks.
        each: haystacks that a rank takes at a time, where there are enough.

    Returns:
        Haystacks that a rank takes at a time, and how many times it does so in a step.

    Raises:
        UserError: they can't be dealt out evenly.
    """
    if ranks > 1 and each <= wanted < each * ranks:
        each = max(1, wanted // ranks)
    at_once = each * ranks
    if wanted % at_once:
        raise UserError(
            f"data.global_batch_size {wanted} does not divide by data.batch_size {each} x "
            f"{ranks} devices = {at_once}: choose a multiple of {at_once}"
        )
    return each, wanted // at_once
