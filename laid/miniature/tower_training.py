"""The vision tower: each visual token learns to name the objects of its image, then it is frozen.

Shape suffixes: B or I images, P 16 patches, D values of a patch without its frame axis, V 4
visual tokens, E the tower's width, H the decoder's, C categories.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as stock
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel as Tower,
)

from laid.miniature.image_pool import MERGE, PATCH, PATCHES, Pool, normalise
from laid.miniature.resumable_stage import Stage

TOKENS = PATCHES // MERGE**2
"""Visual tokens of an image."""

_SHIFT = 2  # pixels that a cell is moved by at most, to vary it


@dataclass(frozen=True)
class TowerRecipe:
    """How a tower is trained."""

    steps: int = 6000
    batch: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.02
    noise: float = 0.1


def encode(tower: Tower, pixels_IPD: Tensor) -> Tensor:
    """``features_IVH`` of normalised images; the same as the stock forward, all images at once.

    The stock attention loops over the images; these have equal size, so they make one batch. Both
    frames of a patch are the same picture, so the two halves of the first layer's weight add up.
    """
    n = len(pixels_IPD)
    side = PATCHES**0.5
    grid = torch.tensor([[1, int(side), int(side)]])
    weight_ED = tower.patch_embed.proj.weight.sum(dim=2).flatten(1)
    hidden_IPE = F.linear(pixels_IPD, weight_ED)
    where = stock.get_vision_position_ids(grid, MERGE)
    cos, sin = tower.rotary_pos_emb(hidden_IPE[0], where)
    for block in tower.blocks:
        hidden_IPE = hidden_IPE + _attend(block.attn, block.norm1(hidden_IPE), cos, sin)
        hidden_IPE = hidden_IPE + block.mlp(block.norm2(hidden_IPE))
    features: Tensor = tower.merger(hidden_IPE.flatten(0, 1))
    return features.reshape(n, TOKENS, -1)


def _attend(attention: Any, hidden_IPE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    n, length, _ = hidden_IPE.shape
    qkv = attention.qkv(hidden_IPE).reshape(n, length, 3, attention.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 1, 3, 4).unbind(0)  # [I, P, heads, width]
    q, k = stock.apply_rotary_pos_emb_vision(q, k, cos, sin)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, scale=attention.scaling)
    result: Tensor = attention.proj(out.transpose(1, 2).reshape(n, length, -1))
    return result


@torch.no_grad()
def encode_pool(tower: Tower, pool: Pool, batch: int = 1024) -> Tensor:
    """``features_IVH`` of a whole pool."""
    parts = pool.patches_IPD.split(batch)
    return torch.cat([encode(tower, normalise(part)) for part in parts])


def train_tower(
    config: Qwen2_5_VLConfig,
    pool: Pool,
    held_out: Pool,
    recipe: TowerRecipe,
    seed: int,
    stage: Stage,
) -> dict[str, Any]:
    """Trains a tower and standardises its features.

    The objective is binary cross-entropy on every category, at each visual token, with as class
    weights fixed orthogonal directions; these become the word embeddings of the categories, so
    that a visual token is, up to noise, the sum of the words for what its image shows.

    Args:
        config: the model's; the tower is that of its ``vision_config``.
        pool: images to train on.
        held_out: images to measure on.
        recipe: steps and rates.
        seed: of initial weights, directions and batches.
        stage: where checkpoints and the result are kept.

    Returns:
        ``visual`` state dict, ``words_CH`` directions of mean square 1, ``exact`` the share of
        held-out images whose set of categories comes out exactly, ``seconds``.
    """
    done = stage.result()
    if done is not None:
        return done
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = Tower._from_config(config.vision_config, dtype=torch.float32)
        for weight in tower.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        hidden, count = config.text_config.hidden_size, len(pool.categories)
        words_CH = nn.init.orthogonal_(torch.empty(count, hidden))
    bias_C = nn.Parameter(torch.full((count,), -2.0))
    optimizer = torch.optim.AdamW(
        [
            {"params": list(tower.parameters()), "weight_decay": recipe.weight_decay},
            {"params": [bias_C], "weight_decay": 0.0},
        ],
        lr=recipe.lr,
        fused=True,
    )
    generator = torch.Generator().manual_seed(seed)
    first, before, started = 0, 0.0, time.monotonic()
    kept = stage.checkpoint()
    if kept is not None:
        tower.load_state_dict(kept["visual"])
        bias_C.data.copy_(kept["bias_C"])
        optimizer.load_state_dict(kept["optimizer"])
        generator.set_state(kept["generator"])
        first, before = kept["step"], kept["seconds"]
    tower.train()
    bar = stage.bar(first, recipe.steps)
    for step in range(first, recipe.steps):
        rate = min(1.0, (step + 1) / 50) * (1 - step / recipe.steps)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * rate
        rows_B = torch.randint(len(pool), (recipe.batch,), generator=generator)
        pixels_BPD = _vary(pool.patches_IPD[rows_B], recipe.noise, generator)
        logits_BVC = _name(encode(tower, pixels_BPD), words_CH, bias_C)
        wanted_BVC = pool.present_IC[rows_B, None].expand_as(logits_BVC).float()
        loss = F.binary_cross_entropy_with_logits(logits_BVC, wanted_BVC)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.update()
        if step % 50 == 49:
            bar.set_postfix(loss=f"{loss.item():.4f}")
        if stage.due:
            stage.keep(
                {
                    "visual": tower.state_dict(),
                    "bias_C": bias_C.data,
                    "optimizer": optimizer.state_dict(),
                    "generator": generator.get_state(),
                    "step": step + 1,
                    "seconds": before + time.monotonic() - started,
                }
            )
    bar.close()
    tower.eval()
    exact = exactness(tower, held_out, words_CH, bias_C)
    _standardise(tower, encode_pool(tower, pool))
    return stage.finish(
        {
            "visual": tower.state_dict(),
            "words_CH": words_CH / words_CH.square().mean().sqrt(),
            "exact": exact,
            "seconds": before + time.monotonic() - started,
        }
    )


@torch.no_grad()
def exactness(tower: Tower, pool: Pool, words_CH: Tensor, bias_C: Tensor) -> float:
    """The share of images whose set of categories comes out exactly (mean over visual tokens)."""
    logits_IC = _name(encode_pool(tower, pool), words_CH, bias_C).mean(dim=1)
    return ((logits_IC > 0) == pool.present_IC).all(dim=1).float().mean().item()


def _name(features_BVH: Tensor, words_CH: Tensor, bias_C: Tensor) -> Tensor:
    return 4 * features_BVH @ words_CH.T + bias_C


def _vary(patches_BPD: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Other pictures of the same objects: cells move, are mirrored, change places; tones shift."""
    n, side = len(patches_BPD) * TOKENS, MERGE * PATCH
    cells = patches_BPD.reshape(n, MERGE, MERGE, 3, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5)
    order = torch.rand(len(patches_BPD), TOKENS, generator=generator).argsort(dim=1)
    place = (order + TOKENS * torch.arange(len(patches_BPD))[:, None]).flatten()
    # Where each pixel of a cell comes from; what is moved in repeats the edge.
    moved = torch.randint(-_SHIFT, _SHIFT + 1, (2, n, 1), generator=generator)
    rows, columns = (torch.arange(side) + moved).clamp(0, side - 1).unbind(0)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, side - 1 - columns, columns)
    cells = cells.reshape(n, 3, side, side)[place].permute(0, 2, 3, 1)
    cells = cells[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None]]
    cells = cells.reshape(n, MERGE, PATCH, MERGE, PATCH, 3).permute(0, 1, 3, 5, 2, 4)
    pixels = normalise(cells.reshape(patches_BPD.shape))
    gain, shift = (noise * torch.randn(2, len(pixels), 1, 1, generator=generator)).unbind(0)
    specks = noise * torch.randn(pixels.shape, generator=generator)
    return pixels * (1 + gain) + shift + specks


@torch.no_grad()
def _standardise(tower: Tower, features_IVH: Tensor) -> None:
    """Scales the last layer so that features have mean 0 and mean square 1, as the words do."""
    mean_H = features_IVH.mean(dim=(0, 1))
    size = (features_IVH - mean_H).square().mean().sqrt()
    last = tower.merger.mlp[-1]
    last.bias.sub_(mean_H).div_(size)
    last.weight.div_(size)
