"""The vision tower: each visual token learns to name the objects of its image; then it is frozen.

Shape suffixes: S sets of features (the visual tokens, then those that DeepStack adds in the
decoder's first layers), B or I images, P 16 patches, D values of a patch without its temporal axis,
V 4 visual tokens, E the tower's hidden size, H the decoder's, C categories.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as stock
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from laid.miniature.image_pool import MERGE, PATCH, PATCHES, Pool, normalise
from laid.miniature.recipes import TowerRecipe
from laid.miniature.resumable_stage import Stage
from laid.vlm.families.family import Config

TOWERS: dict[str, type[PreTrainedModel]] = {
    "qwen2_5_vl": Qwen2_5_VisionTransformerPretrainedModel,
    "qwen3_vl": Qwen3VLVisionModel,
}
"""By ``model_type`` of the whole model."""
TOKENS = PATCHES // MERGE**2
"""Visual tokens of an image."""

_SHIFT = 2  # largest shift of a cell, in pixels, in augmentation


def new_tower(config: Config) -> PreTrainedModel:
    """A model's tower with the weights that transformers draws."""
    return TOWERS[config.model_type]._from_config(config.vision_config, dtype=torch.float32)


def encode(tower: PreTrainedModel, pixels_IPD: Tensor) -> Tensor:
    """``features_SIVH`` of normalised images, equal to those of the stock forward pass.

    The stock attention loops over images; these have equal sizes and make one batch. Both frames
    of a patch are the same image, so the two halves of the first layer's weight are summed.
    """
    side = int(PATCHES**0.5)
    grid = torch.tensor([[1, side, side]])
    weight_ED = tower.patch_embed.proj.weight.sum(dim=2).flatten(1)
    hidden_IPE = F.linear(pixels_IPD, weight_ED, tower.patch_embed.proj.bias)
    if isinstance(tower, Qwen3VLVisionModel):
        hidden_IPE = hidden_IPE + _positions(tower, grid)
    cos, sin = tower.rotary_pos_emb(hidden_IPE[0], stock.get_vision_position_ids(grid, MERGE))
    merged = []
    for number, block in enumerate(tower.blocks):
        hidden_IPE = hidden_IPE + _attend(block.attn, block.norm1(hidden_IPE), cos, sin)
        hidden_IPE = hidden_IPE + block.mlp(block.norm2(hidden_IPE))
        deep = list(getattr(tower, "deepstack_visual_indexes", ()))
        if number in deep:
            merger = tower.deepstack_merger_list[deep.index(number)]
            merged.append(merger(hidden_IPE.flatten(0, 1)))
    features_SXH = torch.stack([tower.merger(hidden_IPE.flatten(0, 1)), *merged])
    return features_SXH.reshape(len(features_SXH), len(pixels_IPD), TOKENS, -1)


def _positions(tower: Qwen3VLVisionModel, grid: Tensor) -> Tensor:
    """Embeddings of the places of an image's patches [P, E]."""
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid,
        num_grid_per_side=tower.num_grid_per_side,
        mode=tower.interpolation_mode,
        align_corners=tower.interpolation_align_corners,
        spatial_merge_size=MERGE,
        kwargs={},
    )
    embedded: Tensor = (tower.pos_embed(indices) * weights[:, :, None]).sum(1)
    return embedded


def _last_layers(tower: PreTrainedModel) -> list[nn.Linear]:
    """Which give the features, by set."""
    if isinstance(tower, Qwen3VLVisionModel):
        return [m.linear_fc2 for m in (tower.merger, *tower.deepstack_merger_list)]
    return [tower.merger.mlp[-1]]


def _attend(attention: Any, hidden_IPE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    qkv = attention.qkv(hidden_IPE).unflatten(-1, (3, attention.num_heads, -1))
    q, k, v = qkv.unbind(2)  # [I, P, heads, width]
    q, k = stock.apply_rotary_pos_emb_vision(q, k, cos, sin)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, scale=attention.scaling)
    result: Tensor = attention.proj(out.transpose(1, 2).flatten(2))
    return result


@torch.no_grad()
def encode_pool(tower: PreTrainedModel, pool: Pool) -> Tensor:
    """``features_SIVH`` of a whole pool."""
    parts = pool.patches_IPD.split(1024)
    return torch.cat([encode(tower, normalise(part)) for part in parts], dim=1)


def train_tower(
    config: Config,
    pool: Pool,
    held_out: Pool,
    recipe: TowerRecipe,
    seed: int,
    stage: Stage,
) -> dict[str, Any]:
    """Trains a tower and standardises its features.

    The loss is binary cross-entropy for every category at each visual token, in each set of
    features. Its class weights are fixed orthogonal directions, which become the word embeddings of
    the categories: a visual token is then, up to noise, the sum of the words for what its image
    shows. ``seed`` is that of initial weights, directions and batches.

    Returns:
        The stage's result: ``visual``, the tower's state dict; ``words_CH``, word embeddings of the
        categories, of mean square 1; ``exact``, the share of held-out images whose set of
        categories is predicted exactly, by the mean logits of their visual tokens.
    """
    if (done := stage.result()) is not None:
        return done
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _Classifier(config, len(pool.categories))
    groups = [
        {"params": list(model.tower.parameters()), "weight_decay": recipe.weight_decay},
        {"params": [model.bias_C], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
    generator = torch.Generator().manual_seed(seed)
    state = model, optimizer, generator
    first = stage.resume(*state).get("step", 0)
    bar = stage.bar(first, recipe.steps)
    for step in range(first, recipe.steps):
        rate = min(1.0, (step + 1) / 50) * (1 - step / recipe.steps)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * rate
        rows_B = torch.randint(len(pool), (recipe.batch,), generator=generator)
        pixels_BPD = _augment(pool.patches_IPD[rows_B], recipe.noise, generator)
        logits_SBVC = model.logits(encode(model.tower, pixels_BPD))
        present_SBVC = pool.present_IC[rows_B, None].expand_as(logits_SBVC).float()
        loss = F.binary_cross_entropy_with_logits(logits_SBVC, present_SBVC)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.update()
        if step % 50 == 49:
            bar.set_postfix(loss=f"{loss.item():.4f}")
        stage.keep(*state, step=step + 1)
    bar.close()
    tower, words_CH = model.tower.eval(), model.words_CH
    with torch.no_grad():
        predicted_IC = model.logits(encode_pool(tower, held_out)[0]).mean(dim=1) > 0
        # The last layers are rescaled: features have mean 0 and mean square 1, like the words.
        for features_IVH, last in zip(encode_pool(tower, pool), _last_layers(tower), strict=True):
            mean_H = features_IVH.mean(dim=(0, 1))
            scale = (features_IVH - mean_H).square().mean().sqrt()
            last.bias.sub_(mean_H).div_(scale)
            last.weight.div_(scale)
    return stage.finish(
        visual=tower.state_dict(),
        words_CH=words_CH / words_CH.square().mean().sqrt(),
        exact=(predicted_IC == held_out.present_IC).all(dim=1).float().mean().item(),
    )


class _Classifier(nn.Module):
    """A tower, and what names categories from its features."""

    words_CH: Tensor

    def __init__(self, config: Config, categories: int):
        super().__init__()
        self.tower = new_tower(config)
        for weight in self.tower.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        words_CH = torch.empty(categories, config.text_config.hidden_size)
        self.register_buffer("words_CH", nn.init.orthogonal_(words_CH))
        self.bias_C = nn.Parameter(torch.full((categories,), -2.0))

    def logits(self, features_SBVH: Tensor) -> Tensor:
        logits_SBVC: Tensor = 4 * features_SBVH @ self.words_CH.T + self.bias_C
        return logits_SBVC


def _augment(patches_BPD: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Normalised pixels of the same objects: cells are permuted, shifted and mirrored; contrast and
    brightness vary and noise is added."""
    n, side = len(patches_BPD) * TOKENS, MERGE * PATCH
    cells = patches_BPD.reshape(n, MERGE, MERGE, 3, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5)
    order = torch.rand(len(patches_BPD), TOKENS, generator=generator).argsort(dim=1)
    place = (order + TOKENS * torch.arange(len(patches_BPD))[:, None]).flatten()
    # Where each pixel of a cell comes from; the edge is repeated.
    moved = torch.randint(-_SHIFT, _SHIFT + 1, (2, n, 1), generator=generator)
    rows, columns = (torch.arange(side) + moved).clamp(0, side - 1).unbind(0)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, side - 1 - columns, columns)
    cells = cells.reshape(n, 3, side, side)[place].permute(0, 2, 3, 1)
    cells = cells[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None]]
    cells = cells.reshape(n, MERGE, PATCH, MERGE, PATCH, 3).permute(0, 1, 3, 5, 2, 4)
    pixels = normalise(cells.reshape(patches_BPD.shape))
    gain, offset = (noise * torch.randn(2, len(pixels), 1, 1, generator=generator)).unbind(0)
    return pixels * (1 + gain) + offset + noise * torch.randn(pixels.shape, generator=generator)
