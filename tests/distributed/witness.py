"""A callback for tests: saves what each rank had, for another process to compare."""

from pathlib import Path

import torch
from lightning import Callback

from laid.distributed.sharded_tensors import full_tensor


class Witness(Callback):
    """Full gradients before clipping and full parameters after every optimizer step."""

    def __init__(self, folder: str):
        self.folder = Path(folder)
        self.gradients: list[dict] = []
        self.parameters: list[dict] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradients.append(
            {
                name: full_tensor(p.grad).clone()  # clipping would reach into it
                for name, p in pl_module.named_parameters()
                if p.grad is not None
            }
        )

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if len(self.gradients) > len(self.parameters):
            found = {n: full_tensor(p.detach()).clone() for n, p in pl_module.named_parameters()}
            self.parameters.append(found)

    def on_train_end(self, trainer, pl_module):
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"gradients": self.gradients, "parameters": self.parameters}
        torch.save(content, self.folder / f"{trainer.global_rank}.pt")
