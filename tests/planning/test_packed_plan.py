"""A plan of packed micro-batches."""

from dataclasses import replace

import pytest
from test_simulated_step import SETTING, module

from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import TrainArgs
from laid.planning.planned_inputs import tokens_of
from laid.planning.simulated_step import simulate_training
from laid.planning.workload import Cost, packed_flops, packed_steps, run_flops, sizes_of
from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import ModelArgs, load_config


@pytest.fixture
def length(pair):
    config = load_config(ModelArgs(str(pair[0])))
    return lambda images: tokens_of(config, images, SETTING.grid)


def cost_of(pair, setting, length):
    return Cost.of(simulate_training(module(pair), setting).flops, setting.haystacks, length)


def test_no_pair_of_haystacks_is_multiplied(pair, length):
    """Attention costs a row of haystacks what it costs each of them."""
    alone = cost_of(pair, replace(SETTING, images=4), length)
    in_row = cost_of(pair, replace(SETTING, packed=(4, 1, 3, 4)), length)
    for part in ("weights", "attention", "vision"):
        assert getattr(in_row, part) == pytest.approx(getattr(alone, part), rel=0.01)


def test_packing_costs_what_haystacks_cost_and_padding_more(length, pair):
    made = {"train": TrainArgs(entries=400), "global_batch_size": 8}
    packed = HaystackDataModule(pack_tokens=8 * length(11), **made)
    padded = HaystackDataModule(batch_size=8, **made)
    sizes = sizes_of(packed.train_args, 20)
    cost = Cost(2.0, 0.001, 5.0, length)
    family = family_of(load_config(ModelArgs(str(pair[0]))))
    steps = packed_steps(sizes, packed, family, 1, length)
    assert steps.packing.rounds in (1, 2)
    total = packed_flops(cost, sizes, steps, epochs=3)
    assert total == pytest.approx(3 * sum(map(cost.at, sizes)))
    assert total < 0.75 * run_flops(cost, sizes, padded, 1, 8, epochs=3)
    # and two ranks wait for each other, but little
    both = packed_flops(cost, sizes, packed_steps(sizes, packed, family, 2, length), epochs=3)
    assert total / 2 < both < 0.6 * total
