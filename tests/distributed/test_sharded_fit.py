"""``laid fit --trainer.strategy laid_fsdp``: several ranks train as one process does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line.commands import environment
from distributed.conftest import free_port

from laid.checkpoints.runs import find_checkpoint
from laid.checkpoints.sharded_checkpoints import read_whole

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


def largest(tensors):
    return max(tensor.abs().max().item() for tensor in tensors.values())


def check(alone, ranks, gradients, parameters):
    """Bounds on the first gradients and the last parameters, as shares of the largest of them."""
    for rank in ranks:
        assert len(rank["gradients"]) == len(alone["gradients"]) == 5
        (first, *_), (*_, last) = alone["gradients"], alone["parameters"]
        assert apart(rank["gradients"][0], first) <= gradients * largest(first)
        assert apart(rank["parameters"][-1], last) <= parameters * largest(last)
        # and among themselves they are the same to the bit
        assert apart(rank["parameters"][-1], ranks[0]["parameters"][-1]) == 0


def compare(witnessed, name, ranks, *options):
    """Ranks with a haystack each, against one process that has them one by one and one that has
    them side by side.

    One by one is the same arithmetic but for the order of a sum. Side by side, matrix products
    are of another shape and round otherwise, without any sharding.
    """
    alone = (1, "--trainer.max_epochs", 4, *options, "--data.batch_size")
    (one_by_one,) = witnessed(f"{name}-one", *alone, 1)
    (batched,) = witnessed(f"{name}-batch", *alone, ranks)
    sharded = witnessed(f"{name}-{ranks}", ranks, *alone[1:], 1)
    check(one_by_one, sharded, gradients=2e-7, parameters=1e-6)  # float32 itself: 1.2e-7
    check(batched, sharded, gradients=1e-6, parameters=1e-5)


VARIANTS = {
    # global batch, objective and mixing; accumulation is what the batch leaves over
    "plain": ("--data.global_batch_size", 2),
    "accumulated": ("--data.global_batch_size", 4),
    "no-kl": ("--data.global_batch_size", 2, "--model.objective.kl.weight", 0),
    "alignment-alone": (
        "--data.global_batch_size", 2, "--model.objective.kl.weight", 0,
        "--model.objective.sft.weight", 0,
    ),
    "complex": (
        "--data.global_batch_size", 4, "--model.objective.laid.mixing.weights", "complex",
        "--model.objective.laid.mixing.normalisation", "none",
        "--model.objective.laid.layers", "all",
    ),
    "shared-keys": ("--data.global_batch_size", 2, "--model.objective.laid.mixing.keys", "shared"),
    "least-squares": (
        "--data.global_batch_size", 2, "--model.objective.laid.mixing.initial", "least-squares",
    ),
    "vision": (
        "--data.global_batch_size", 2, "--model.student.freeze_vision", "false",
        "--model.student.activation_checkpointing", "true",
    ),
    "lora": ("--data.global_batch_size", 2, "--model.lora.rank", 4),
    "rope-gain": ("--data.global_batch_size", 2, "--model.rope_gain.layers", "all"),
    "lora-and-gain": (
        "--data.global_batch_size", 2, "--model.lora.rank", 4, "--model.rope_gain.layers", "[1]",
        "--model.student.activation_checkpointing", "true",
    ),
    "no-clipping": ("--data.global_batch_size", 2, "--trainer.gradient_clip_val", "null"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_two_times_one_equals_one_times_two(witnessed, name):
    compare(witnessed, name, 2, *VARIANTS[name])


@pytest.mark.slow
def test_ranks_look_for_an_image_among_those_of_all(witnessed):
    """Retrieval alignment and image share: two ranks with a haystack each are a batch of two."""
    options = (
        "--data.global_batch_size", 2, "--model.objective.retrieval.weight", 1,
        "--model.objective.retrieval.layers", "matched", "--model.objective.image_share.weight", 1,
    )  # fmt: skip
    (batched,) = witnessed("pool", 1, *options, "--trainer.max_epochs", 4, "--data.batch_size", 2)
    sharded = witnessed("pool-2", 2, *options, "--trainer.max_epochs", 4, "--data.batch_size", 1)
    check(batched, sharded, gradients=1e-6, parameters=1e-5)


@pytest.mark.slow
def test_ranks_whose_entries_have_no_image_train_as_one_process(witnessed, work):
    """While the other rank's vision tower runs, and in both terms that need images or do not."""
    text = work / "text.jsonl"
    said = {
        "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So"}]
    }
    text.write_text("\n".join([json.dumps(said)] * 12))
    options = (
        "--data.global_batch_size", 2, "--data.cache_features", "false",
        "--data.train.mixture", json.dumps({str(text): 0.5, "built": 0.5}),
        "--model.objective.retrieval.weight", 1, "--model.objective.retrieval.layers", "all",
        "--model.objective.retrieval.distractors", "none", "--model.objective.retrieval.reach", 0,
    )  # fmt: skip
    compare(witnessed, "bare", 2, *options)
    options = (*options[:-4], "--trainer.max_epochs", 4, "--data.batch_size")  # with a bank
    (batched,) = witnessed("bare-bank", 1, *options, 2)
    check(batched, witnessed("bare-bank-2", 2, *options, 1), gradients=1e-6, parameters=1e-5)


@pytest.mark.slow
def test_ranks_with_packed_haystacks_train_as_one_process_with_padded_ones(witnessed):
    """Of three haystacks, one rank has one and the other two; of six, with two micro-batches."""
    for step, tokens in ((3, 10_000), (6, 60)):
        options = ("--data.global_batch_size", step, "--data.train.min_size", 1)
        alone = (1, "--trainer.max_epochs", 8, *options)
        name = f"packed-{step}"
        (padded,) = witnessed(f"{name}-padded", *alone, "--data.batch_size", step)
        (packed,) = witnessed(f"{name}-1", *alone, "--data.pack_tokens", tokens)
        ranks = witnessed(
            f"{name}-2", 2, "--trainer.max_epochs", 8, *options, "--data.pack_tokens", tokens
        )
        check(padded, [packed], gradients=1e-6, parameters=1e-5)
        check(padded, ranks, gradients=1e-6, parameters=1e-5)


@pytest.mark.slow
def test_four_ranks_with_fewer_key_heads_than_ranks(witnessed):
    compare(witnessed, "four", 4, "--data.global_batch_size", 4)


@pytest.mark.slow
def test_low_precision_keeps_float32_weights(witnessed):
    """bf16-mixed, as the full-size configurations have it, with clipping; and with gains, which
    are gathered with their layer."""
    options = ("--trainer.precision", "bf16-mixed", "--model.rope_gain.layers", "all")
    (first, second) = witnessed("bf16", 2, *options, steps=3)
    assert all(p.dtype == torch.float32 for p in first["parameters"][-1].values())
    assert all(g.dtype == torch.float32 for g in first["gradients"][-1].values())
    assert apart(first["parameters"][-1], second["parameters"][-1]) == 0
    moved = apart(first["parameters"][-1], first["parameters"][0])
    assert 0 < moved < 1e-2


def together(commands, work):
    """Runs commands side by side, each with what it adds to the environment."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *map(str, words)], cwd=work, env={**environment(), **more},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for more, words in commands
    ]  # fmt: skip
    said = [process.communicate(timeout=600)[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(started), said[0][-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["torchrun", "two nodes", "two nodes with torchrun"])
def test_others_may_start_the_ranks(laid, config, work, how):
    """Several nodes, played by processes of this one; the same weights as Lightning's two."""
    name = how.replace(" ", "-")
    fit = (
        "fit", "--config", config, "--head_flow.enabled", "false", "--trainer.max_steps", 2,
        "--trainer.num_sanity_val_steps", 0, "--trainer.limit_val_batches", 0,
        "--data.workers", 0, "--trainer.strategy", "laid_fsdp",
    )  # fmt: skip
    if not (work / "runs" / "by-lightning").exists():
        laid(*fit, "--name", "by-lightning", "--trainer.devices", 2)
    fit = ("laid", *fit, "--name", name)
    one_each = ("--trainer.devices", 1, "--trainer.num_nodes", 2)
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    meet = ("--master_addr", "127.0.0.1", "--master_port", where["MASTER_PORT"])
    run = ("torch.distributed.run", *meet, "--nproc_per_node")
    if how == "torchrun":
        commands = [({}, (*run, 2, "-m", *fit, "--trainer.devices", 2))]
    elif how == "two nodes":
        commands = [({**where, "NODE_RANK": str(n)}, (*fit, *one_each)) for n in (0, 1)]
    else:
        nodes = (*run, 1, "--nnodes", 2, "--node_rank")
        commands = [({}, (*nodes, n, "-m", *fit, *one_each)) for n in (0, 1)]
    together(commands, work)
    assert not (work / "runs" / f"{name}-2").exists()  # one folder for all
    state, expected = (
        read_whole(find_checkpoint(str(work / "runs" / run), work).path)["state_dict"]
        for run in (name, "by-lightning")
    )
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(state[key], value), key
