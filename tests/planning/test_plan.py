"""``laid plan``: the settings of ``laid fit``, and the promise of the shipped configurations."""

from pathlib import Path

import pytest
import torch

from laid.cli.main import main
from laid.planning.fake_floats import fake_floats
from laid.planning.memory_tracker import MemoryTracker
from laid.planning.plan_command import plan
from laid.planning.plan_tables import GIB, Limit, highest, verdict

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def planned(pair, tmp_path_factory):
    """A plan's text for the tiny pair, and a function of more settings to a plan's text."""
    ours = [
        f"--model.student.path={pair[0]}",
        f"--model.teacher.path={pair[1]}",
        "--image_width=112",
        "--image_height=84",
        "--trainer.max_epochs=2",
        "--data.train.max_size=3",
        "--test_images=0",
    ]

    return lambda *more: plan([*ours, *more])


@pytest.fixture(scope="module")
def text(planned):
    return planned(
        *("--trainer.strategy=laid_fsdp", "--devices=4", "--tflops=0.001", "--test_images=5"),
        "--trainer.limit_train_batches=1.0",
    )


def test_a_plan_says_what_memory_is_for_in_every_phase(text):
    for phase in ("teacher forward", "student forward", "backward", "clipping"):
        assert any(line.strip().startswith(phase) for line in text.splitlines()), phase
    for kind in ("gradients", "gathered", "activations", "logits"):
        assert kind in text


def test_a_plan_counts_tokens_images_and_shares(text):
    # 12 visual tokens and 2 marks an image, 49 of text, 2 of the answer
    assert "3 images of 112 x 84, 93 tokens; 1 at a time on a device, 2 times a step" in text
    assert "laid_fsdp on 4 devices" in text
    assert "test of 5 images, 119 tokens" in text


def test_packed_micro_batches_are_planned_by_the_largest(planned):
    typed = "--data.pack_tokens=190", "--data.global_batch_size=4", "--data.train.entries=40"
    text = planned("--devices=1", *typed)
    assert "training on 3 + 3 images of 112 x 84, 186 tokens, in one row on a device, 2 t" in text


def test_a_plan_gives_hours_at_the_speed_that_is_stated(text):
    assert "hours at 0.001 TFLOP/s a device (given)" in text
    assert "2 epochs over 5,000 haystacks of 2 to 3 images" in text
    assert "fits" in text


def test_a_teacher_from_a_cache_takes_no_memory_and_no_flops(planned, text):
    """And both plans say what the cache takes."""
    cached = planned("--devices=1", "--model.teacher_source=cache:x")
    assert "teacher forward" in text
    assert "teacher forward" not in cached
    assert "from a cache" in cached
    for said in (text, cached):
        assert "laid cache of 5,000 entries: " in said
        assert "(teacher layers 2 and logits)" in said


def test_settings_that_a_plan_does_not_follow_are_named(planned, text):
    typed = "--trainer.limit_train_batches=5", "--data.cache_features=true"
    mixture = "--data.train.mixture={built: 0.8, my.jsonl: 0.2}"
    said = planned("--devices=1", mixture, *typed)
    assert "data.train.mixture is not read: planned as 5,000 haystacks of 3 images; for" in said
    assert "trainer.limit_train_batches 5 is not followed: epochs are whole" in said
    assert "data.cache_features is planned as false" in said
    assert " is not " not in text


def test_what_does_not_fit_comes_with_what_to_turn(planned):
    text = planned("--memory=0.05GiB", "--spare=0.04GiB", "--devices=1")
    assert "training does not fit" in text
    assert "--model.student.activation_checkpointing true" in text
    assert "--trainer.strategy laid_fsdp" in text


def test_a_verdict_leaves_room_for_what_a_plan_does_not_see():
    tracker = MemoryTracker()
    with fake_floats(), tracker.watching():
        taken = torch.empty(70, GIB, dtype=torch.uint8)
    assert highest(tracker).total() == taken.numel()
    assert "5.0 GiB are left" in verdict("it", tracker, Limit(80 * GIB, 5 * GIB), [])
    refused = verdict("it", tracker, Limit(74 * GIB, 5 * GIB), ["more devices"])
    assert "1.0 over" in refused
    assert "- more devices" in refused


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--gpu", "abacus"], "expected a800, h100, h200, rtx4090"),
        (["--mfu", "0.5"], "name it with --gpu"),
        (["--tflops", "100", "--mfu", "0.5"], "leave --mfu out"),
        (["--gpu", "h100", "--mfu", "2"], "at most 1"),
        (["--data.train.min_size", "30", "--data.train.max_size", "20"], "min_size <= max_size"),
        (["--data.train.entries", "4"], "not one step of"),
        (["--memory", "80"], "expected such as 80GiB"),
        (["--devices", "4"], "give --trainer.strategy laid_fsdp"),
        (["--devices", "0"], "expected 1 or more"),
        (["--trainer.strategy", "laid_fsdp", "--devices", "3"], "is not divisible"),
        (["--model.student.attn_implementation", "flash_attention_2"], "plan with sdpa"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_a_plan_can_not_follow_is_refused(planned, typed, said):
    with pytest.raises(ValueError, match=said):
        planned(*typed)


@pytest.mark.parametrize("option", ["--model.klx", "--results", "--image_h"])
def test_an_option_that_does_not_exist_is_refused(capsys, option):
    with pytest.raises(SystemExit) as stop:
        main(["plan", option, "1"])
    assert stop.value.code == 2
    assert option.strip("-") in capsys.readouterr().err


@pytest.mark.slow  # half a minute each: models of 33 and 8 billion parameters
@pytest.mark.parametrize(
    ("name", "devices", "memory"),
    [
        ("7b", "laid_fsdp on 4 devices", "76GiB"),
        ("3b", "laid_fsdp on 4 devices", "76GiB"),
        ("7b-1gpu", "one device", "76GiB"),
        ("3b-24gb", "one device", "23.6GiB"),
    ],
)
def test_the_papers_pairs_fit_on_the_cards_that_a_configuration_says(name, devices, memory, qwen):
    text = plan(
        [
            f"--config={CONFIGS / name}.yaml",
            f"--model.student.path={qwen / name.split('-')[0]}",
            f"--model.teacher.path={qwen / '32b'}",
            f"--memory={memory}",
            "--spare=6GiB",
        ]
    )
    assert devices in text
    assert ("from a cache" in text) == (devices == "one device")
    assert "training fits" in text
    assert "the test fits" in text
