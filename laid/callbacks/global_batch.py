"""Gradient accumulation, derived from the global batch size."""

from lightning import Callback, LightningModule, Trainer


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
        wanted, each = data.global_batch_size, data.batch_size
        if trainer.world_size > 1 and each <= wanted < each * trainer.world_size:
            each = max(1, wanted // trainer.world_size)
            data.batch_size = each
            if trainer.is_global_zero:
                print(
                    f"laid: {each} haystacks on a device at a time rather than data.batch_size: "
                    f"{trainer.world_size} devices share data.global_batch_size {wanted}"
                )
        at_once = each * trainer.world_size
        if wanted % at_once:
            raise ValueError(
                f"data.global_batch_size {wanted} does not divide by data.batch_size {each} x "
                f"{trainer.world_size} devices = {at_once}: choose a multiple of {at_once}"
            )
        derived = wanted // at_once
        if trainer.accumulate_grad_batches not in (1, derived):
            raise ValueError(
                f"trainer.accumulate_grad_batches {trainer.accumulate_grad_batches} contradicts "
                f"data.global_batch_size {wanted}, from which {derived} follows: leave it out"
            )
        trainer.accumulate_grad_batches = derived
