"""The learning-rate schedules are transformers', bit for bit; overrides reach a restored one."""

import pytest
import torch
from transformers import get_scheduler

from laid.training.optimizer import OptimizerArgs, build_schedule, set_rates


def optimizer(lr=1e-5):
    groups = [
        {"name": name, "params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate}
        for name, rate in (("student", lr), ("mixing", 3e-4))
    ]
    return torch.optim.AdamW(groups)


def rates(optimizer, schedule, steps):
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("name", ["linear", "cosine", "constant_with_warmup"])
@pytest.mark.parametrize("steps", [1, 2, 7, 100, 1250])
@pytest.mark.parametrize("warmup_ratio", [0, 0.05, 0.33, 0.999])
def test_learning_rates_equal_those_of_transformers(name, steps, warmup_ratio):
    ours, theirs = optimizer(), optimizer()
    args = OptimizerArgs(schedule=name, warmup_ratio=warmup_ratio)
    expected = get_scheduler(
        name,
        theirs,
        num_warmup_steps=round(warmup_ratio * steps),
        num_training_steps=steps,
    )
    beyond = steps + 5  # a run that is trained further than it was planned
    found = rates(ours, build_schedule(ours, args, steps), beyond)
    assert found == rates(theirs, expected, beyond)


def test_overrides_of_a_resumed_run_replace_the_restored_rates():
    args = OptimizerArgs(warmup_ratio=0.5)
    restored = optimizer()
    schedule = build_schedule(restored, args, 8)
    rates(restored, schedule, 2)
    set_rates(restored, schedule, OptimizerArgs(student_lr=1.0, mixing_lr=2.0, betas=(0.5, 0.6)))
    assert [group["lr"] for group in restored.param_groups] == [0.5, 1.0]  # step 2 of 4
    assert [group["weight_decay"] for group in restored.param_groups] == [0.01, 0.0]
    assert all(group["betas"] == (0.5, 0.6) for group in restored.param_groups)
    rates(restored, schedule, 1)
    assert [group["lr"] for group in restored.param_groups] == [0.75, 1.5]
