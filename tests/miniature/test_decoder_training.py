from dataclasses import replace

import pytest
import torch

from laid.miniature.decoder_training import (
    Progress,
    TrainingData,
    grow,
    hidden_states,
    new_model,
    train_decoder,
)
from laid.miniature.packaged_models import packaged_config
from laid.miniature.question_sampler import Sampler
from laid.miniature.recipes import DecoderRecipe
from laid.miniature.resumable_stage import Stage
from laid.miniature.tower_training import new_tower

RECIPE = DecoderRecipe(sizes=(1, 2), settle=1, threshold=0.0, cooldown=3, tokens=100)

POSITIONS = replace(RECIPE, sizes=(4,), limit=4, threshold=1.0, slots=50)


@pytest.fixture
def model(config, writer):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        visual = new_tower(config).state_dict()
        words = torch.randn(24, 128)
    return new_model(config, {"visual": visual, "words_CH": words}, writer, seed=0)


@pytest.fixture
def data(pool, writer, model):
    return TrainingData.of(model, pool, writer)


def test_growing_by_a_layer_keeps_the_function(model, data, processor, writer):
    grown = grow(model, packaged_config("teacher", processor), seed=9)
    assert len(grown.model.language_model.layers) == 4
    layout = writer.layout(2, 4)
    ids = layout.ids_L.repeat(2, 1)
    features = torch.randn(len(data.features_SIVH), 2, 2, 4, 128)
    with torch.no_grad():
        before, after = (m.lm_head(hidden_states(m, layout, ids, features)) for m in (model, grown))
    assert torch.equal(before, after)
    # But the new layer can learn: its gradient is not zero.
    grown.lm_head(hidden_states(grown, layout, ids, features)).square().mean().backward()
    new = 1 if len(features) == 1 else 2  # behind DeepStack's
    layer = grown.model.language_model.layers[new]
    assert layer.self_attn.o_proj.weight.grad.abs().max() > 0


def test_the_curriculum_advances_cools_down_and_ends():
    recipe = DecoderRecipe(sizes=(1, 2), threshold=0.9, settle=10, cooldown=5, limit=1000)
    progress = Progress()
    levels = []
    while not progress.over(recipe):
        levels.append(len(progress.begun))
        progress.advance(recipe, 1.0)
    assert set(levels) == {1, 2}
    assert progress.step - progress.cooling == 5
    stuck = Progress()
    while not stuck.over(recipe):
        stuck.advance(recipe, 0.5)
    assert (stuck.begun, stuck.step) == ([0], 1005)


@pytest.mark.parametrize("recipe", [RECIPE, POSITIONS], ids=["curriculum", "positions"])
def test_a_killed_and_resumed_stage_ends_with_the_same_weights(model, data, recipe, tmp_path):
    start = {name: value.clone() for name, value in model.state_dict().items()}
    train_decoder(model, data, recipe, 3, Stage(tmp_path, "whole"))
    whole = Stage(tmp_path, "whole").result()
    end = whole["model"]

    class Killed(Stage):
        left = 4

        def keep(self, *state, **more):
            super().keep(*state, **more)
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    model.load_state_dict(start)
    with pytest.raises(KeyboardInterrupt):
        train_decoder(model, data, recipe, 3, Killed(tmp_path, "parts", every=0))
    model.load_state_dict(start)  # as in another process
    train_decoder(model, data, recipe, 3, Stage(tmp_path, "parts"))
    parts = Stage(tmp_path, "parts").result()
    assert (parts["steps"], parts["begun"]) == (whole["steps"], whole["begun"])
    assert not torch.equal(end["lm_head.weight"], start["lm_head.weight"])
    for name, value in end.items():
        assert torch.equal(parts["model"][name], value), name
    # The tower was frozen, so the features that were trained on are still its own.
    assert all(torch.equal(end[n], start[n]) for n in end if n.startswith("model.visual"))
    # A finished stage loads its weights into the model without another step.
    model.load_state_dict(start)
    train_decoder(model, data, recipe, 3, Stage(tmp_path, "parts"))
    assert torch.equal(model.lm_head.weight, end["lm_head.weight"])


def test_few_images_reach_the_positions_of_long_haystacks(model, data, writer, tmp_path):
    sizes, largest = [], []

    class Watched(Sampler):
        def draw(self, batch, size, questions, generator):
            sizes.append(size)
            return super().draw(batch, size, questions, generator)

    model.model.language_model.register_forward_pre_hook(
        lambda _, args, given: largest.append(int(given["position_ids"].max())), with_kwargs=True
    )
    data = replace(data, sampler=Watched(data.sampler.present_IC))
    train_decoder(model, data, replace(POSITIONS, cooldown=20), 3, Stage(tmp_path, "positions"))
    assert max(sizes) == 4
    end = int(writer.layout(50, 1).positions_3BL.max())
    assert largest[0] < 0.5 * end  # the haystacks grow
    assert 0.9 * end < max(largest) <= end
