"""The decoder: a curriculum of haystack sizes on the features of the frozen tower.

Shape suffixes: B haystacks, N images, M slots, Q questions, X valid questions of a batch, L tokens,
W vocabulary, C categories, V visual tokens of an image, H hidden, I images of the pool, S sets of
features (``laid/miniature/tower_training.py``).
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from laid.miniature.haystack_layout import Layout, Writer
from laid.miniature.image_pool import Pool
from laid.miniature.question_sampler import Sampler
from laid.miniature.recipes import DecoderRecipe
from laid.miniature.resumable_stage import Stage
from laid.miniature.tiny_models import tiny_model
from laid.miniature.tower_training import encode_pool
from laid.vlm.families.family import Config


@dataclass
class Progress:
    """Position in the curriculum."""

    step: int = 0
    begun: list[int] = field(default_factory=lambda: [0])
    """The steps at which the sizes so far were begun."""
    running: float = 0.5
    """Running accuracy at the last of them."""
    cooling: float = math.inf
    """The step at which the cool-down began."""

    def advance(self, recipe: DecoderRecipe, accuracy: float | None) -> None:
        """Counts a step; ``accuracy`` is that of its batch, None for one of another size."""
        self.step += 1
        if accuracy is not None:
            self.running += 0.03 * (accuracy - self.running)
        if self.cooling < math.inf:
            return
        settled = self.step - self.begun[-1] > recipe.settle
        mastered = settled and self.running > recipe.threshold
        if mastered and len(self.begun) < len(recipe.sizes):
            self.begun.append(self.step)
            self.running = 0.5
        elif mastered or self.step >= recipe.limit:
            self.cooling = self.step

    def rate(self, recipe: DecoderRecipe) -> float:
        """Factor of the recipe's learning rate in the next step."""
        cooled = 1 - (self.step - self.cooling) / recipe.cooldown
        return min(1.0, (self.step + 1) / recipe.warmup) * min(1.0, max(0.02, cooled))

    def slots(self, recipe: DecoderRecipe) -> int:
        """The recipe's ``slots`` as they have grown by the next step."""
        return round(recipe.slots * min(1.0, (self.step + 1) / recipe.limit))

    def over(self, recipe: DecoderRecipe) -> bool:
        """Whether the cool-down has ended."""
        return self.step - self.cooling >= recipe.cooldown


@dataclass(frozen=True)
class TrainingData:
    """What a decoder is trained on: features of the pool's images, from the frozen tower, and what
    draws haystacks and questions and writes them as tokens."""

    features_SIVH: Tensor
    sampler: Sampler
    writer: Writer

    @classmethod
    def of(cls, model: PreTrainedModel, pool: Pool, writer: Writer) -> "TrainingData":
        """With the features of the model's tower."""
        return cls(encode_pool(model.model.visual, pool), Sampler(pool.present_IC), writer)


def new_model(config: Config, tower: dict[str, Any], writer: Writer, seed: int) -> PreTrainedModel:
    """A model with the tower that ``train_tower`` returned, and an untrained decoder.

    Word embeddings are standard normal; those of the categories are the tower's directions.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = tiny_model(config)
        model.model.visual.load_state_dict(tower["visual"])
        with torch.no_grad():
            words = model.get_input_embeddings().weight
            words.normal_()
            words[writer.words_C] = tower["words_CH"]
    return model


def grow(model: PreTrainedModel, config: Config, seed: int) -> PreTrainedModel:
    """The same function with the layers of ``config``: the new ones, after the first or after those
    that DeepStack adds features to, output zero at first."""
    at = max(1, len(getattr(config.vision_config, "deepstack_visual_indexes", ())))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grown = tiny_model(config)
    others = {name: value for name, value in model.state_dict().items() if ".layers." not in name}
    grown.load_state_dict(others, strict=False)
    layers, old = grown.model.language_model.layers, model.model.language_model.layers
    end = at + len(layers) - len(old)
    assert at < end, "a grown model has more layers"
    for ours, theirs in zip([*layers[:at], *layers[end:]], old, strict=True):
        ours.load_state_dict(theirs.state_dict())
    for layer in layers[at:end]:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    return grown


def hidden_states(
    model: PreTrainedModel, layout: Layout, ids_BL: Tensor, features_SBNVH: Tensor
) -> Tensor:
    """The decoder's last ``hidden_BLH``, for the images' features."""
    embeds_BLH = model.get_input_embeddings()(ids_BL)
    mask = layout.mask_LL
    tokens_BNVH, *deep = features_SBNVH
    more = {}
    if deep:
        visual_BL = torch.zeros_like(ids_BL, dtype=torch.bool)
        visual_BL[:, layout.visual_I] = True
        embeds = [features_BNVH.flatten(0, 2) for features_BNVH in deep]
        more = {"visual_pos_masks": visual_BL, "deepstack_visual_embeds": embeds}
    hidden_BLH: Tensor = model.model.language_model(
        inputs_embeds=embeds_BLH.index_copy(1, layout.visual_I, tokens_BNVH.flatten(1, 2)),
        position_ids=layout.positions_3BL.expand(-1, len(ids_BL), -1),
        attention_mask=None if mask is None else mask[None, None],
        use_cache=False,
        **more,
    ).last_hidden_state
    return hidden_BLH


def loss_and_accuracy(
    model: PreTrainedModel,
    data: TrainingData,
    recipe: DecoderRecipe,
    size: int,
    generator: torch.Generator,
    slots: int = 0,
) -> tuple[Tensor, float]:
    """The loss of a new batch of haystacks of ``size`` images, and the answers' accuracy. With
    ``slots`` they stand at random places of haystacks of up to so many."""
    writer = data.writer
    # More on longer haystacks, whose images cost more.
    questions = 4 if size <= 4 else 8 if size <= 16 else 16
    layout = writer.layout(size, questions)
    batch = max(2, min(64, recipe.tokens // len(layout)))
    drawn = data.sampler.draw(batch, size, questions, generator)
    ids_BL = writer.write(layout, drawn.anchors_BQ, drawn.targets_BQ, drawn.yes_BQ)
    if slots:
        layout = layout.among(*draw_slots(batch, size, max(size, slots), generator))
    hidden_BLH = hidden_states(model, layout, ids_BL, data.features_SIVH[:, drawn.images_BN])

    valid = drawn.valid_BQ
    answers_X = ids_BL[:, layout.answers_Q][valid]
    logits_XW = model.lm_head(hidden_BLH[:, layout.answers_Q - 1][valid])
    ends_XW = model.lm_head(hidden_BLH[:, layout.answers_Q][valid])
    loss = F.cross_entropy(logits_XW, answers_X)
    loss = loss + 0.1 * F.cross_entropy(ends_XW, torch.full_like(answers_X, writer.end))
    if recipe.anchor_loss:
        log_p_BQW = model.lm_head(hidden_BLH[:, layout.anchors_Q]).log_softmax(dim=-1)
        share_BQC = drawn.others_BQC / drawn.others_BQC.sum(dim=-1, keepdim=True).clamp(min=1)
        named = -(log_p_BQW[..., writer.words_C] * share_BQC).sum(dim=-1).mean()
        loss = loss + recipe.anchor_loss * named
    accuracy = (logits_XW.argmax(dim=-1) == answers_X).float().mean().item()
    return loss, accuracy


def train_decoder(
    model: PreTrainedModel, data: TrainingData, recipe: DecoderRecipe, seed: int, stage: Stage
) -> None:
    """Trains all of a model but its tower, in place; ``seed`` is that of the batches.

    The stage's result: ``model``, its state dict, tower included; ``steps``; ``begun``, the steps
    at which the sizes of the curriculum were begun.
    """
    if (done := stage.result()) is not None:
        model.load_state_dict(done["model"])
        return
    model.train()
    model.model.visual.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
    generator = torch.Generator().manual_seed(seed)
    state = model, optimizer, generator
    progress = Progress(**stage.resume(*state).get("progress", {}))
    bar = stage.bar(progress.step)
    while not progress.over(recipe):
        largest = recipe.sizes[len(progress.begun) - 1]
        # The largest with probability 0.6, else log-uniform below it.
        coin, place = torch.rand(2, generator=generator).tolist()
        size = largest if coin < 0.6 else round(largest**place)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * progress.rate(recipe)
        slots = progress.slots(recipe)
        loss, accuracy = loss_and_accuracy(model, data, recipe, size, generator, slots)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, recipe.max_norm)
        optimizer.step()
        progress.advance(recipe, accuracy if size == largest else None)
        bar.update()
        if progress.step % 20 == 0:
            phase = "cooling down" if progress.cooling < math.inf else f"{largest} images"
            bar.set_postfix_str(f"{phase}, accuracy {progress.running:.3f}, loss {loss.item():.3f}")
        stage.keep(*state, progress=asdict(progress))
    bar.close()
    model.eval()
    stage.finish(model=model.state_dict(), steps=progress.step, begun=progress.begun)


def draw_slots(
    batch: int, size: int, most: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """``size`` ascending slots ``slots_BN`` in each of some haystacks, and these haystacks' lengths
    ``size_B``, uniform from ``size`` to ``most`` images."""
    size_B = torch.randint(size, most + 1, (batch,), generator=generator)
    order_BM = torch.rand(batch, most, generator=generator)
    order_BM[torch.arange(most) >= size_B[:, None]] = 2.0
    return order_BM.argsort(dim=1)[:, :size].sort(dim=1).values, size_B
