"""``laid fit --trainer.strategy laid_fsdp``: several ranks train as one process does."""

import json
import os
from pathlib import Path

import pytest
import torch

SHARDED = ("--trainer.strategy", "laid_fsdp", "--trainer.devices")


@pytest.fixture(scope="module")
def witnessed(laid, config, work):
    """Runs ``laid fit`` for some steps with a witness; gives what each of its ranks saw."""
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )

    def run(name, ranks, *options, steps=5):
        witness = {"class_path": "witness.Witness", "init_args": {"folder": f"seen/{name}"}}
        laid(
            "fit", "--config", config, "--name", name, "--head_flow.enabled", "false",
            "--trainer.max_steps", steps, "--trainer.num_sanity_val_steps", 0,
            "--checkpoint.every_n_train_steps", 1000, "--trainer.limit_val_batches", 0,
            "--data.workers", 0, "--trainer.callbacks", json.dumps([witness]),
            # Where a gradient is all rounding, Adam's step is the rate times noise.
            "--model.optimizer.student_lr", 1e-4, "--model.optimizer.mixing_lr", 1e-3,
            *(() if ranks == 1 else (*SHARDED, ranks)), *options,
        )  # fmt: skip
        return [
            torch.load(work / "seen" / name / f"{rank}.pt", weights_only=True)
            for rank in range(ranks)
        ]

    return run


def apart(some, other):
    """The largest difference of two sets of tensors of the same names."""
    assert some.keys() == other.keys()
    return max((some[name] - other[name]).abs().max().item() for name in some)


def check(alone, ranks):
    for rank in ranks:
        assert len(rank["gradients"]) == len(alone["gradients"]) == 5
        assert apart(rank["gradients"][0], alone["gradients"][0]) < 1e-6
        assert apart(rank["parameters"][-1], alone["parameters"][-1]) < 1e-5
        # and among themselves they are the same to the bit
        assert apart(rank["parameters"][-1], ranks[0]["parameters"][-1]) == 0


VARIANTS = {
    # global batch, objective and mixing; accumulation is what the batch leaves over
    "plain": ("--data.global_batch_size", 2),
    "accumulated": ("--data.global_batch_size", 4),
    "no-kl": ("--data.global_batch_size", 2, "--model.objective.kl", 0),
    "alignment-alone": (
        "--data.global_batch_size", 2, "--model.objective.kl", 0, "--model.objective.sft", 0,
    ),
    "complex": (
        "--data.global_batch_size", 4, "--model.mixing.weights", "complex",
        "--model.mixing.normalisation", "none", "--model.objective.alignment.layers", "all",
    ),
    "shared-keys": ("--data.global_batch_size", 2, "--model.mixing.keys", "shared"),
    "least-squares": ("--data.global_batch_size", 2, "--model.mixing.initial", "least-squares"),
    "attention": (
        "--data.global_batch_size", 2, "--model.objective.attn", 1,
        "--model.objective.alignment.layers", "matched",
    ),
    "vision": (
        "--data.global_batch_size", 2, "--model.student.freeze_vision", "false",
        "--model.student.activation_checkpointing", "true",
    ),
    "no-clipping": ("--data.global_batch_size", 2, "--trainer.gradient_clip_val", "null"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_two_times_one_equals_one_times_two(witnessed, name):
    options = ("--trainer.max_epochs", 4, *VARIANTS[name])
    (alone,) = witnessed(f"{name}-1", 1, *options, "--data.batch_size", 2)
    check(alone, witnessed(f"{name}-2", 2, *options, "--data.batch_size", 1))


@pytest.mark.slow
def test_four_ranks_with_fewer_key_heads_than_ranks(witnessed):
    options = ("--trainer.max_epochs", 4, "--data.global_batch_size", 4)
    (alone,) = witnessed("four-1", 1, *options, "--data.batch_size", 4)
    check(alone, witnessed("four-4", 4, *options, "--data.batch_size", 1))


@pytest.mark.slow
def test_low_precision_keeps_float32_weights(witnessed):
    """bf16-mixed, as the full-size configurations have it, with clipping."""
    (first, second) = witnessed("bf16", 2, "--trainer.precision", "bf16-mixed", steps=3)
    assert all(p.dtype == torch.float32 for p in first["parameters"][-1].values())
    assert all(g.dtype == torch.float32 for g in first["gradients"][-1].values())
    assert apart(first["parameters"][-1], second["parameters"][-1]) == 0
    moved = apart(first["parameters"][-1], first["parameters"][0])
    assert 0 < moved < 1e-2
