"""A plan is the run itself without its numbers: memory and FLOPs agree with real ones."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from laid.planning.memory_tracker import MemoryTracker
from laid.planning.plan_tables import highest
from laid.planning.planned_inputs import ANSWER, haystack_inputs, tokens_of
from laid.planning.simulated_step import (
    BACKWARD,
    OPTIMIZER,
    STUDENT,
    TEACHER,
    TEST,
    PlannedModule,
    Setting,
    simulate_test,
    simulate_training,
)
from laid.planning.workload import Cost
from laid.vlm.lora import LoraArgs
from laid.vlm.model_loading import ModelArgs, empty_model, load_config
from laid.vlm.rope_gain import RopeGainArgs

SETTING = Setting(devices=None, precision="32-true", images=3, grid=(1, 8, 6), clip=1.0)


def module(pair, **student) -> PlannedModule:
    return PlannedModule(
        ModelArgs(str(pair[0]), random_weights=True, **student),
        ModelArgs(str(pair[1]), random_weights=True, dtype="bfloat16"),
    )


@pytest.fixture(scope="module")
def whole(pair) -> MemoryTracker:
    """A step of ``SETTING``."""
    return simulate_training(module(pair), SETTING)


@pytest.fixture(scope="module")
def of_two(pair) -> MemoryTracker:
    """The same on one of two devices."""
    return simulate_training(module(pair), replace(SETTING, devices=2))


def bytes_at_peak(tracker: MemoryTracker) -> dict[str, int]:
    return {name: peak.total() for name, peak in tracker.peaks().items()}


@pytest.mark.parametrize(
    "setting",
    [SETTING, replace(SETTING, devices=2, precision="bf16-mixed", accumulates=True)],
    ids=["one device", "sharded"],
)
def test_real_tensors_take_the_memory_that_is_planned(pair, whole, setting):
    again = setting is not SETTING
    planned = bytes_at_peak(simulate_training(module(pair), setting) if again else whole)
    real = bytes_at_peak(simulate_training(module(pair), setting, real=True))
    for phase in (TEACHER, STUDENT, BACKWARD, OPTIMIZER):
        assert planned[phase] == pytest.approx(real[phase], rel=0.05), phase


@pytest.mark.slow  # a process of its own, and a step of two thousand tokens
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_a_process_grows_by_what_is_planned(tmp_path):
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("resident.py"), tmp_path],
        # Freed memory goes back at once, as it would to a GPU's allocator.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["grown"] == pytest.approx(found["planned"], rel=0.05)


def test_each_rank_holds_a_shard_of_what_one_device_holds(whole, of_two):
    one, two = highest(whole), highest(of_two)
    for kind in ("student", "teacher", "optimizer"):
        assert two[kind] == pytest.approx(one[kind] / 2, rel=0.15), kind
    assert two.total() < one.total()


def test_adapters_need_gradients_and_moments_for_themselves_alone(pair, whole):
    with_lora = PlannedModule(
        ModelArgs(str(pair[0])), ModelArgs(str(pair[1]), dtype="bfloat16"), lora=LoraArgs()
    )
    adapted = highest(simulate_training(with_lora, SETTING))
    assert 0 < adapted["optimizer"] < highest(whole)["optimizer"] / 3
    assert adapted["student"] > highest(whole)["student"]


def test_gains_are_counted_in_what_a_shard_holds(pair, of_two):
    args = ModelArgs(str(pair[0])), ModelArgs(str(pair[1]), dtype="bfloat16")
    made = PlannedModule(*args, rope_gain=RopeGainArgs())
    with_gains = highest(simulate_training(made, replace(SETTING, devices=2)))
    # Two layers of 4 heads and 32 / 2 pairs, half of them on a rank, in float32.
    assert with_gains["student"] - highest(of_two)["student"] == 2 * 4 * 16 / 2 * 4


def test_checkpointing_trades_activations_for_work(pair, whole):
    again = simulate_training(module(pair, activation_checkpointing=True), SETTING)
    assert highest(again).total() < highest(whole).total()
    redone = sum(amount for (_, work), amount in again.flops.items() if work.again)
    forward = sum(
        amount
        for (phase, work), amount in whole.flops.items()
        if phase == STUDENT and not work.vision
    )
    assert 0.5 * forward < redone <= forward
    assert not any(work.again for _, work in whole.flops)


def test_flops_of_weights_are_two_a_parameter_and_token(pair, whole):
    config = load_config(ModelArgs(str(pair[0])))
    hf = empty_model(ModelArgs(str(pair[0])))
    linear = sum(
        part.weight.numel()
        for part in hf.model.language_model.modules()
        if isinstance(part, nn.Linear)
    )
    tokens = tokens_of(config, SETTING.images, SETTING.grid)
    counted = sum(
        amount
        for (phase, work), amount in whole.flops.items()
        if phase == STUDENT and not work.vision and not work.attention
    )
    head = 2 * hf.lm_head.weight.numel() * ANSWER
    mixing = counted - 2 * linear * tokens - head
    # What is left over is the mixing of heads, in the loss.
    assert 0 <= mixing < 0.05 * counted


def test_attention_grows_with_the_square_of_the_tokens(pair):
    costs = {}
    config = load_config(ModelArgs(str(pair[0])))

    def length(images):
        return tokens_of(config, images, SETTING.grid)

    for images in (2, 8):
        setting = replace(SETTING, images=images)
        tracker = simulate_training(module(pair), setting)
        costs[images] = Cost.of(tracker.flops, [images], length)
    assert costs[8].at(2) == pytest.approx(costs[2].at(2), rel=0.02)
    assert costs[8].attention == pytest.approx(costs[2].attention, rel=0.02)
    assert costs[8].vision == pytest.approx(costs[2].vision, rel=0.02)


def test_a_haystack_of_a_plan_is_as_long_as_it_says(pair):
    config = load_config(ModelArgs(str(pair[0])))
    inputs = haystack_inputs(config, 3, (1, 8, 6), 2, with_answer=True)
    assert inputs.input_ids_BL.shape == (2, tokens_of(config, 3, (1, 8, 6)))
    assert int(inputs.mm_token_type_ids_BL.sum()) == 2 * 3 * 12
    height, width = inputs.position_ids_3BL[1:]
    assert not height.equal(width)


def test_the_simulated_test_runs_the_student_alone(pair):
    peaks = simulate_test(module(pair), SETTING).peaks()
    assert peaks[TEST]["student"] > 0
    assert "teacher" not in peaks[TEST]
    longer = simulate_test(module(pair), replace(SETTING, images=30)).peaks()
    assert longer[TEST].total() > peaks[TEST].total()
