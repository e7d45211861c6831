"""The other device, and one training step on it."""

import pytest
import torch
from other_device.training_step import Run, assert_close, steps

from laid.training.objective import ObjectiveArgs

REFUSED = {
    "both devices": lambda x: x + torch.ones(4),
    "in place": lambda x: torch.tensor(1.0).add_(x.sum()),
    "of its indices": lambda x: torch.ones(3)[torch.tensor([1], device="other")],
    "numbers in a list": lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
    "gather": lambda x: x.gather(1, torch.zeros(3, 1).long()),
    "generator": lambda x: torch.randn(3, device="other", generator=torch.Generator()),
    "memory": lambda x: x.numpy(),
}
TAKEN = {
    "a number": lambda x: x + torch.tensor(1.0),
    "a number in place": lambda x: x.clone().mul_(torch.tensor(2.0)).masked_fill_(x > 0, 1.0),
    "indices": lambda x: x[torch.tensor([0, 2])],
    "a copy": lambda x: torch.zeros_like(x).copy_(torch.ones(3, 4)),
}
WAITS = {
    "item": lambda x: x.sum().item(),
    "mask": lambda x: x[x > 0],
    "index": lambda x: x[torch.tensor([0, 2])],
    "there": lambda x: torch.tensor([1.0], device="other"),
    "back": lambda x: x.cpu(),
}


def operations(device):
    """What was refused, and how often each of ``WAITS`` waited."""
    x, refused, waited = torch.randn(3, 4).to("other"), set(), {}
    for name, operation in {**REFUSED, **TAKEN}.items():
        try:
            operation(x)
        except RuntimeError:
            refused.add(name)
    for name, operation in WAITS.items():
        device.waited.clear()
        operation(x)
        waited[name] = len(device.waited)
    device.waited.clear()
    (x.softmax(-1) @ x.T).sum()
    torch.ones(3).to("other", non_blocking=True)
    assert not device.waited
    return refused, waited


def test_the_device_refuses_what_cuda_refuses_and_counts_what_it_waits_for(on_device):
    refused, waited = on_device(operations)
    assert refused == REFUSED.keys()
    assert waited == dict.fromkeys(WAITS, 1)


@pytest.fixture
def batches(haystacks):
    return [haystacks(rows=rows).inputs for rows in ([0, 3], [4, 1])]


def test_a_step_of_the_default_terms_is_that_of_the_cpu(on_device, pair, batches):
    run = Run(ObjectiveArgs(), kept=True)
    found = on_device(steps, "other", run, pair, batches)
    assert_close(found, steps(None, "cpu", run, pair, batches))
    # transformers' own checks, of placeholders and of padding, in both models.
    assert len(found.waited) <= 6
    assert set(found.waited) == {"aten._local_scalar_dense vision_language_model.py:VLM.signals"}
