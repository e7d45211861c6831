import pytest
import torch

from laid.data.image_files import load_image
from laid.miniature.image_pool import normalise
from laid.miniature.recipes import TowerRecipe
from laid.miniature.resumable_stage import Stage
from laid.miniature.tiny_models import tiny_model
from laid.miniature.tower_training import _augment, encode, train_tower


def test_patches_are_those_of_the_image_processor(root, pool, processor):
    images = [load_image(root / name) for name in pool.files[:3]]
    stock = processor.stock.image_processor(images, return_tensors="pt")["pixel_values"]
    frames = normalise(pool.patches_IPD[:3]).reshape(48, 3, 1, 196).expand(-1, -1, 2, -1)
    torch.testing.assert_close(frames.reshape(48, -1), stock, rtol=0, atol=1e-6)


def test_batched_features_equal_the_stock_model(pool, config):
    """DeepStack's too."""
    torch.manual_seed(0)
    model = tiny_model(config)
    for weight in model.model.visual.parameters():  # far from the small ones it starts with
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    pixels = normalise(pool.patches_IPD[:5])
    frames = pixels.reshape(80, 3, 1, 196).expand(-1, -1, 2, -1).reshape(80, -1)
    with torch.no_grad():
        made = model.model.get_image_features(frames, torch.tensor([[1, 4, 4]] * 5))
        ours = encode(model.model.visual, pixels)
    sets = [made.pooler_output, *getattr(made, "deepstack_features", [])]
    assert len(ours) == len(sets) == (3 if config.model_type == "qwen3_vl" else 1)
    assert ours.std() > 0.01
    stock = torch.stack([torch.stack(features) for features in sets])
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-5)


def test_a_killed_and_resumed_stage_ends_with_the_same_weights(pool, config, tmp_path):
    recipe = TowerRecipe(steps=6, batch=8)
    whole = train_tower(config, pool, pool, recipe, 3, Stage(tmp_path, "whole"))

    class Killed(Stage):
        left = 3

        def keep(self, *state, **more):
            super().keep(*state, **more)
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_tower(config, pool, pool, recipe, 3, Killed(tmp_path, "parts", every=0))
    assert (tmp_path / "parts.checkpoint.pt").exists()
    parts = train_tower(config, pool, pool, recipe, 3, Stage(tmp_path, "parts"))
    assert parts["visual"].keys() == whole["visual"].keys()
    for name, value in whole["visual"].items():
        assert torch.equal(parts["visual"][name], value), name
    assert not (tmp_path / "parts.checkpoint.pt").exists()


def test_features_are_standardised_and_a_finished_stage_is_not_repeated(pool, config, tmp_path):
    recipe = TowerRecipe(steps=2, batch=8)
    stage = Stage(tmp_path, "tower")
    first = train_tower(config, pool, pool, recipe, 0, stage)
    assert 0 <= first["exact"] <= 1
    torch.testing.assert_close(first["words_CH"].square().mean(), torch.tensor(1.0))
    model = tiny_model(config)
    model.model.visual.load_state_dict(first["visual"])
    with torch.no_grad():
        sets = encode(model.model.visual, normalise(pool.patches_IPD))
    for features in sets:
        assert features.mean().abs() < 1e-3
        torch.testing.assert_close(features.square().mean(), torch.tensor(1.0), rtol=1e-3, atol=0)
    again = train_tower(config, pool, pool, TowerRecipe(steps=10**9), 0, stage)
    assert again["seconds"] == first["seconds"]


def test_augmented_images_keep_their_objects(pool, generator, monkeypatch):
    """Without noise and shift its cells are those of the image, or mirrored."""
    monkeypatch.setattr("laid.miniature.tower_training._SHIFT", 0)
    patches = pool.patches_IPD[:6]
    augmented = _augment(patches, 0.0, generator)

    def cells(pixels):
        grid = pixels.reshape(-1, 4, 2, 2, 3, 14, 14).permute(0, 1, 4, 2, 5, 3, 6)
        return grid.reshape(-1, 4, 3, 28, 28)

    before, after = cells(normalise(patches)), cells(augmented)
    for image in range(6):
        sources = set()
        for cell in after[image]:
            same = [
                at
                for at, old in enumerate(before[image])
                if torch.equal(cell, old) or torch.equal(cell, old.flip(2))
            ]
            sources.update(same)
        assert sources == {0, 1, 2, 3}
    assert not torch.equal(before, after)
