"""Tokens and images per second."""

import lightning as L
import pytest
import torch
from other_device.host_reads import host_reads
from torch.utils.data import DataLoader

from laid.callbacks.throughput import Throughput


class Watched(Throughput):
    """Counts, by batch, what the host waits for."""

    def __init__(self):
        self.reads = []

    def on_train_batch_end(self, *given):
        with host_reads() as found:
            super().on_train_batch_end(*given)
        self.reads.append(found)


class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, _):
        return self.weight * batch.inputs.images

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 0, 1]), (2, [0, 0, 0, 1])])
def test_the_host_waits_only_where_the_speed_is_logged(haystacks, tmp_path, every, expected):
    watched, batch = Watched(), haystacks(rows=[0, 3])
    L.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, accumulate_grad_batches=2,
        log_every_n_steps=every, callbacks=[watched], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(Module(), DataLoader([batch] * 4, batch_size=None))  # fmt: skip
    assert list(map(len, watched.reads)) == expected
