"""Tokens and images per second, and peak memory."""

import resource
import sys
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from laid.data.prompt import Batch


class Throughput(Callback):
    """Logs ``speed/tokens_per_second``, ``speed/images_per_second`` (this rank's, times the number
    of ranks) and ``memory/peak_gib``: of the GPU's allocator, or of the process without a GPU.

    The rates are over the batches since the last logged step, from batch end to batch end: data
    loading, teacher, backward pass and optimizer are included.
    """

    _tokens: int | torch.Tensor  # on the device until they are logged

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *at: int
    ) -> None:
        self._tokens = self._tokens + batch.inputs.attention_mask_BL.sum()
        self._images += batch.inputs.images
        accumulates = trainer.fit_loop.epoch_loop._should_accumulate()
        if accumulates or trainer.global_step % trainer.log_every_n_steps:
            return
        tokens = int(self._tokens)  # waits for the device, whose work the seconds are to include
        ranks, seconds = trainer.world_size, time.perf_counter() - self._since
        found = {
            "speed/tokens_per_second": ranks * tokens / seconds,
            "speed/images_per_second": ranks * self._images / seconds,
            "memory/peak_gib": peak_gib(pl_module.device),
        }
        pl_module.log_dict(found, batch_size=1)
        self.on_train_start(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()
        self._tokens = self._images = 0

    on_validation_end = on_train_start  # validation's time is not training's


def peak_gib(device: torch.device) -> float:
    """Peak memory of a device, or of the process if it is the CPU, so far; in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
