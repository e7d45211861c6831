"""Weights that are NaN or infinite are neither saved, tested nor exported."""

import shutil
from functools import partial

import pytest
import torch
from checkpoints.conftest import content
from safetensors.torch import load_file, save_file

from laid.checkpoints.sharded_checkpoints import read_whole, save_sharded
from laid.distributed.sharded_tensors import first_not_finite
from laid.vlm.hf_folder import write_model
from laid.vlm.model_loading import ModelArgs, load_model


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_first_that_is_not_finite_is_named(value, dtype):
    good = [
        ("none", torch.empty(0)),
        ("whole", torch.tensor([1, 2])),
        ("large", torch.full((3, 3), torch.finfo(dtype).max, dtype=dtype)),
        ("scalar", torch.tensor(1.0)),
    ]
    assert first_not_finite(good) is None
    assert first_not_finite([]) is None
    bad = torch.ones(5, 5, dtype=dtype)
    bad[3, 4] = value
    assert first_not_finite([*good, ("bad", bad), ("worse", bad)]) == "bad"


@pytest.mark.parametrize("read", [read_whole, partial(read_whole, with_optimizer=False)])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_checkpoint_that_is_not_finite_is_refused(tmp_path, kind, read):
    given = content()
    given["state_dict"]["student.b"][2] = float("nan")
    path = tmp_path / "step=1.ckpt"
    if kind == "file":
        torch.save(given, path)
    else:
        save_sharded(given, path)
    with pytest.raises(ValueError, match=r"is not finite: student\.b holds"):
        read(path)


def test_an_export_beyond_its_dtypes_range_is_refused(tmp_path, pair):
    state = load_model(ModelArgs(str(pair[0]))).state_dict()
    state["lm_head.weight"] = state["lm_head.weight"] + 1e6
    write_model(tmp_path, ModelArgs(str(pair[0])), state, torch.bfloat16)
    with pytest.raises(ValueError, match=r"holds a NaN or an infinity as torch\.float16"):
        write_model(tmp_path, ModelArgs(str(pair[0])), state, torch.float16)


QUICK = ("--head_flow.enabled", "false", "--trainer.limit_val_batches", 0)


@pytest.fixture(scope="module")
def diverged(laid, config, work):
    """A run with a learning rate that is far too high, and its messages."""
    done = laid(
        "fit", "--config", config, "--name", "diverged", *QUICK,
        "--model.optimizer.student_lr", 1e30, "--checkpoint.save_top_k", 1,
        "--model.optimizer.warmup_ratio", 0, code=2,
    )  # fmt: skip
    return work / "runs" / "diverged", done


def test_a_run_that_diverges_fails_and_keeps_its_last_finite_checkpoint(diverged):
    run, done = diverged
    assert "expected finite numbers" in done.err
    assert "to test it" not in done.out + done.err
    assert "Traceback" not in done.err
    (path,) = (run / "checkpoints").iterdir()
    state = torch.load(path, weights_only=True)["state_dict"]
    assert first_not_finite(state.items()) is None


@pytest.mark.parametrize(
    "command",
    ["test", "export", *(pytest.param(c, marks=pytest.mark.slow) for c in ("validate", "predict"))],
)
def test_commands_refuse_weights_that_are_not_finite(laid, diverged, tmp_path, drawn, command):
    run, _ = diverged
    (path,) = (run / "checkpoints").iterdir()
    content = torch.load(path, weights_only=True)
    content["state_dict"]["student.hf.lm_head.weight"][0, 0] = float("nan")
    bad = tmp_path / "checkpoints" / path.name
    bad.parent.mkdir()
    torch.save(content, bad)
    options = {
        "export": ("--out", tmp_path / "out"),
        "predict": ("--data.predict.images", drawn / "val2017", "--data.predict.question", "A?"),
    }.get(command, ())
    done = laid(command, "--ckpt_path", bad, *options, code=2)
    assert "is not finite: student.hf.lm_head.weight holds" in done.err
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_is_not_finite_is_refused(laid, config, pair, tmp_path):
    shutil.copytree(pair[1], tmp_path / "teacher")
    state = load_file(tmp_path / "teacher" / "model.safetensors")
    state["lm_head.weight"][0, 0] = float("nan")
    save_file(state, tmp_path / "teacher" / "model.safetensors", {"format": "pt"})
    done = laid(
        "fit", "--config", config, "--name", "bad-teacher", *QUICK,
        "--model.teacher.path", tmp_path / "teacher", code=2,
    )  # fmt: skip
    assert "teacher' is not finite: lm_head.weight holds a NaN" in done.err
