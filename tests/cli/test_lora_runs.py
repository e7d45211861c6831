"""Runs with LoRA: small checkpoints that every command takes."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import Qwen2_5_VLForConditionalGeneration

from laid.checkpoints.runs import find_checkpoint
from laid.cli.export_command import export
from laid.inspection.named_models import named_models
from laid.signals.model_signals import Wanted
from laid.vlm.lora import LoraArgs
from laid.vlm.model_loading import ModelArgs
from laid.vlm.vision_language_model import VLM

METHODS = Path(__file__).parents[2] / "configs" / "method"
BRISK = ("--model.optimizer.lora_lr", 1e-2)
"""A rate at which a few steps are seen in the answers."""


def scalars(folder, tag):
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    board.Reload()
    return {event.step: event.value for event in board.Scalars(tag)}


def content_of(run):
    return torch.load(find_checkpoint(str(run), run.parent).path, weights_only=True)


def student_of(run):
    state = content_of(run)["state_dict"]
    return {key: value for key, value in state.items() if key.startswith("student.")}


@pytest.fixture(scope="module")
def tuned(laid, config, work):
    """SFT with LoRA, after a base whose teacher is nowhere."""
    laid(
        "fit", "--config", config, "--config", METHODS / "sft_lora.yaml", *BRISK,
        "--model.teacher.path", "./nowhere", "--trainer.max_steps", 4,
        "--head_flow.enabled", "false",
    )  # fmt: skip
    return work / "runs" / "sft_lora"


@pytest.fixture(scope="module")
def answering(tuned):
    """The run's student, put together by hand."""
    found = find_checkpoint(str(tuned), tuned.parent)
    model = found.config["model"]
    vlm = VLM.load(ModelArgs(**model["student"]), LoraArgs(**model["lora"]))
    own = {key.removeprefix("student."): value for key, value in student_of(tuned).items()}
    assert not vlm.load_state_dict(own, strict=False).unexpected_keys
    return vlm


def test_a_checkpoint_holds_adapters_their_moments_and_no_other_weight(tuned, pair):
    content, student = content_of(tuned), student_of(tuned)
    assert student
    assert all(".lora_" in key for key in student)
    groups = content["optimizer_states"][0]["param_groups"]
    assert [group["name"] for group in groups] == ["lora"]
    assert len(groups[0]["params"]) == len(student)
    found = find_checkpoint(str(tuned), tuned.parent)
    base = (pair[0] / "model.safetensors").stat().st_size
    assert found.path.stat().st_size < base / 2
    assert content["base"]["path"] == str(pair[0])


def test_the_adapters_have_a_learning_rate_of_their_own(tuned):
    rates = scalars(tuned, "lr/lora")
    assert max(rates.values()) == pytest.approx(1e-2)
    assert scalars(tuned, "grad_norm/student")


def test_export_merges_them_and_the_folder_needs_no_peft(tuned, answering, haystacks, work):
    out = work / "merged"
    export(str(tuned), str(out))
    names = {path.name for path in out.iterdir()}
    assert not any("adapter" in name for name in names)
    plain = VLM(Qwen2_5_VLForConditionalGeneration.from_pretrained(out))
    inputs, wanted = haystacks().inputs, Wanted(layers=(0, 1), logits=True)
    with torch.no_grad():
        ours, theirs = answering.signals(inputs, wanted), plain.signals(inputs, wanted)
        answering_base = VLM.load(ModelArgs(answering.base["path"])).signals(inputs, wanted)
    torch.testing.assert_close(theirs.logits_NV, ours.logits_NV, rtol=1e-5, atol=1e-5)
    assert (ours.logits_NV - answering_base.logits_NV).abs().max() > 1e-2


@torch.no_grad()
def test_a_spectrum_is_that_of_the_base_with_its_adapters(tuned, answering, haystacks):
    (named,) = named_models([f"tuned={tuned}"], None)
    inputs, wanted = haystacks().inputs, Wanted(layers=(0, 1))
    found = named.load(torch.device("cpu")).signals(inputs, wanted).qk
    for layer, qk in answering.signals(inputs, wanted).qk.items():
        assert torch.equal(found[layer].q, qk.q)
    assert named.mixings() == {}


def test_export_keeps_the_number_format_of_the_frozen_weights(tuned, work, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tuned, run)
    path = find_checkpoint(str(run), run.parent).path
    content = torch.load(path, weights_only=True)
    content["laid"]["config"] = content["laid"]["config"].replace(
        "dtype: float32", "dtype: bfloat16", 1
    )
    torch.save(content, path)
    for name, dtype in (("as-trained", None), ("asked", "float32")):
        export(str(path), str(tmp_path / name), dtype)
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / name, dtype="auto")
        expected = torch.float32 if dtype else torch.bfloat16
        assert {p.dtype for p in model.parameters()} == {expected}


@pytest.mark.slow
def test_test_answers_with_the_adapters(tuned, laid, answering, work):
    laid("test", "--ckpt_path", tuned)
    results = json.loads((tuned / "results.json").read_text())
    assert all(cell["n"] == 4 for cell in results["by_size"].values())
    assert results["identity"]["student"]["lora"]["rank"] == 8
    assert results["identity"]["weights"] == answering.base["weights"]
    export(str(tuned), str(work / "merged-for-test"))
    options = ("--model.lora", "null", "--results", work / "refused")
    refused = laid("test", "--ckpt_path", tuned, *options, code=2)
    assert "the checkpoint does not fit the model" in refused.err
    laid(
        "test", "--config", work / "small.yaml", "--results", work / "of-merged",
        "--model.student.path", work / "merged-for-test",
    )  # fmt: skip
    one, two = (
        [json.loads(line)["answer"] for line in (folder / "records.jsonl").open().readlines()[1:]]
        for folder in (tuned, work / "of-merged")
    )
    assert one == two


@pytest.mark.slow
def test_validate_and_predict_take_it(tuned, laid, drawn, work):
    assert "val/accuracy" in laid("validate", "--ckpt_path", tuned).out
    laid(
        "predict", "--ckpt_path", tuned, "--data.predict.images", drawn / "test2017",
        "--data.predict.question", "For the image with a dog, is there a cat?",
    )  # fmt: skip
    assert json.loads((tuned / "predictions.jsonl").read_text())["answer"] is not None


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_losses_of_an_uninterrupted_one(start, laid, config, work):
    """LAid with LoRA, killed in mid-epoch: weights, moments and mixing weights come back."""
    options = ("fit", "--config", config, "--config", METHODS / "laid_lora.yaml", *BRISK)
    laid(*options, "--name", "whole")
    process = start(*options, "--name", "killed")
    checkpoint = work / "runs" / "killed" / "checkpoints" / "step=4.ckpt"
    while not checkpoint.exists():
        assert process.poll() is None, process.said[-3000:]
        time.sleep(0.01)
    process.send(signal.SIGKILL, group=True)
    process.wait()
    for later in checkpoint.parent.glob("*.ckpt"):
        if later != checkpoint and later.name not in ("step=1.ckpt", "step=2.ckpt", "step=3.ckpt"):
            later.unlink()
    laid("fit", "--ckpt_path", work / "runs" / "killed")
    whole, resumed = work / "runs" / "whole", work / "runs" / "killed"
    for tag in ("train/loss", "train/laid", "grad_norm/student", "grad_norm/mixing", "lr/lora"):
        late = {step: value for step, value in scalars(whole, tag).items() if step >= 4}
        assert len(late) >= 7
        assert {s: v for s, v in scalars(resumed, tag).items() if s >= 4} == late, tag
    one, two = content_of(whole)["state_dict"], content_of(resumed)["state_dict"]
    assert {key.split(".")[0] for key in one} == {"student", "objective"}
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.slow
def test_adapters_on_weights_that_have_changed_are_refused(laid, config, pair, tmp_path, work):
    shutil.copytree(pair[0], tmp_path / "student")
    laid(
        "fit", "--config", config, "--config", METHODS / "sft_lora.yaml", "--name", "moved-base",
        "--model.student.path", tmp_path / "student", "--trainer.max_steps", 1,
        "--head_flow.enabled", "false",
    )  # fmt: skip
    shutil.copy(pair[1] / "model.safetensors", tmp_path / "student" / "more.safetensors")
    run = work / "runs" / "moved-base"
    for command in (("test",), ("fit",), ("export", "--out", tmp_path / "out")):
        done = laid(*command, "--ckpt_path", run, code=2)
        assert "have changed since the checkpoint's adapters were trained" in done.err
