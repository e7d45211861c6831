"""The decoder: a curriculum of haystack sizes on the features of the frozen tower.

Shape suffixes: B haystacks, N images, M slots, Q questions, X valid questions of a batch, L tokens,
W vocabulary, C categories, V visual tokens of an image, H hidden, I images of the pool.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen2_5_VLConfig

from laid.common.errors import UserError
from laid.miniature.haystack_layout import Layout, Writer
from laid.miniature.question_sampler import Sampler
from laid.miniature.recipes import DecoderRecipe
from laid.miniature.resumable_stage import Stage
from laid.miniature.tiny_models import tiny_model
from laid.miniature.tower_training import TowerResult


@dataclass
class Progress:
    """Position in the curriculum."""

    step: int = 0
    level: int = 0
    """Index of the current size."""
    since: int = 0
    """Steps since it was begun."""
    running: float = 0.5
    """Running accuracy at it."""
    cooling: int = -1
    """The step at which the cool-down began; -1 before."""

    def advance(self, recipe: DecoderRecipe, accuracy: float | None) -> None:
        """Counts a step; ``accuracy`` is that of its batch, None for one of another size."""
        self.step += 1
        self.since += 1
        if accuracy is not None:
            self.running += 0.03 * (accuracy - self.running)
        if self.cooling >= 0:
            return
        mastered = self.running > recipe.threshold and self.since > recipe.settle
        if mastered and self.level < len(recipe.sizes) - 1:
            self.level, self.since, self.running = self.level + 1, 0, 0.5
        elif mastered or self.step >= recipe.limit:
            self.cooling = self.step

    def rate(self, recipe: DecoderRecipe) -> float:
        """Factor of the recipe's learning rate in the next step."""
        rate = min(1.0, (self.step + 1) / recipe.warmup)
        if self.cooling >= 0:
            rate *= max(0.02, 1 - (self.step - self.cooling) / recipe.cooldown)
        return rate

    def slots(self, recipe: DecoderRecipe) -> int:
        """The most images of a haystack that the next step's images stand in; 0: their own."""
        return round(recipe.slots * min(1.0, (self.step + 1) / recipe.limit))

    def over(self, recipe: DecoderRecipe) -> bool:
        """Whether the cool-down has ended."""
        return self.cooling >= 0 and self.step - self.cooling >= recipe.cooldown


@dataclass(frozen=True)
class TrainingData:
    """What a decoder is trained on: features of the pool's images, from the frozen tower, and what
    draws haystacks and questions and writes them as tokens."""

    features_IVH: Tensor
    sampler: Sampler
    writer: Writer


def new_model(
    config: Qwen2_5_VLConfig, tower: TowerResult, writer: Writer, seed: int
) -> PreTrainedModel:
    """A model with a trained tower and an untrained decoder.

    Word embeddings are standard normal; those of the categories are the tower's directions.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = tiny_model(config)
        model.model.visual.load_state_dict(tower.visual)
        with torch.no_grad():
            words = model.get_input_embeddings().weight
            words.normal_()
            words[writer.words_C] = tower.words_CH
    return model


def grow(
    model: PreTrainedModel, config: Qwen2_5_VLConfig, seed: int, at: int = 1
) -> PreTrainedModel:
    """The same function with more layers: the new ones, from layer ``at``, output zero at first.

    Raises:
        UserError: ``config`` has no more layers than the model.
    """
    old = model.config.text_config.num_hidden_layers
    added = config.text_config.num_hidden_layers - old
    if added < 1 or not 0 <= at <= old:
        raise UserError(f"cannot grow {old} layers by {added} at {at}: expected more layers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grown = tiny_model(config)
    state = {}
    for name, value in model.state_dict().items():
        before, inside, after = name.partition(".language_model.layers.")
        if inside:
            number, _, rest = after.partition(".")
            layer = int(number) + (added if int(number) >= at else 0)
            name = f"{before}{inside}{layer}.{rest}"
        state[name] = value
    grown.load_state_dict(state, strict=False)
    for layer in grown.model.language_model.layers[at : at + added]:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    return grown


def hidden_states(
    model: PreTrainedModel,
    layout: Layout,
    ids_BL: Tensor,
    features_BNVH: Tensor,
    positions_3BL: Tensor | None = None,
) -> Tensor:
    """The decoder's last ``hidden_BLH``, for the images' features; positions: the layout's own."""
    if positions_3BL is None:
        positions_3BL = layout.positions_3L[:, None].expand(-1, len(ids_BL), -1)
    embeds_BLH = model.get_input_embeddings()(ids_BL)
    visual_BIH = features_BNVH.flatten(1, 2)
    embeds_BLH = embeds_BLH.index_copy(1, layout.visual_I, visual_BIH.to(embeds_BLH.dtype))
    mask = layout.mask_LL
    out = model.model.language_model(
        inputs_embeds=embeds_BLH,
        position_ids=positions_3BL,
        attention_mask=None if mask is None else mask[None, None],
        use_cache=False,
    )
    hidden: Tensor = out.last_hidden_state
    return hidden


def questions_for(size: int) -> int:
    """Questions on a haystack of ``size`` images: more on longer ones, whose images cost more."""
    return 4 if size <= 4 else 8 if size <= 16 else 16


def loss_and_accuracy(
    model: PreTrainedModel,
    data: TrainingData,
    recipe: DecoderRecipe,
    size: int,
    generator: torch.Generator,
    slots: int = 0,
) -> tuple[Tensor, float]:
    """The loss of a new batch of haystacks of ``size`` images, and the answers' accuracy.

    ``slots``: the most images of the haystacks at whose random places they stand; 0: their own.
    """
    writer = data.writer
    questions = questions_for(size)
    layout = writer.layout(size, questions)
    batch = max(2, min(64, recipe.tokens // len(layout)))
    drawn = data.sampler.draw(batch, size, questions, generator)
    ids_BL = writer.write(layout, drawn.anchors_BQ, drawn.targets_BQ, drawn.yes_BQ)
    positions_3BL = None
    if slots:
        size_B, slots_BN = draw_slots(batch, size, max(size, slots), generator)
        positions_3BL = layout.positions_among(slots_BN, size_B)
    features_BNVH = data.features_IVH[drawn.images_BN]
    hidden_BLH = hidden_states(model, layout, ids_BL, features_BNVH, positions_3BL)

    valid = drawn.valid_BQ
    answers_X = ids_BL[:, layout.answers_Q][valid]
    logits_XW = model.lm_head(hidden_BLH[:, layout.answers_Q - 1][valid])
    ends_XW = model.lm_head(hidden_BLH[:, layout.answers_Q][valid])
    loss = F.cross_entropy(logits_XW, answers_X)
    loss = loss + 0.1 * F.cross_entropy(ends_XW, torch.full_like(answers_X, writer.end))
    if recipe.anchor_loss:
        log_p_BQW = model.lm_head(hidden_BLH[:, layout.anchors_Q]).log_softmax(dim=-1)
        others_BQC = drawn.others_BQC.float()
        others_BQC = others_BQC / others_BQC.sum(dim=-1, keepdim=True).clamp(min=1)
        named = -(log_p_BQW[..., writer.words_C] * others_BQC).sum(dim=-1).mean()
        loss = loss + recipe.anchor_loss * named
    accuracy = (logits_XW.argmax(dim=-1) == answers_X).float().mean().item()
    return loss, accuracy


def train_decoder(
    model: PreTrainedModel, data: TrainingData, recipe: DecoderRecipe, seed: int, stage: Stage
) -> None:
    """Trains all of a model but its tower, in place; ``seed`` is that of the batches.

    The stage's result: ``model``, its state dict, tower included; ``steps``; ``log``, step and size
    at which each size of the curriculum was begun.
    """
    if (done := stage.result()) is not None:
        model.load_state_dict(done["model"])
        return
    model.train()
    model.model.visual.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=recipe.lr,
        betas=recipe.betas,
        fused=True,
    )
    generator = torch.Generator().manual_seed(seed)
    progress, log = Progress(), [[0, recipe.sizes[0]]]
    if (kept := stage.checkpoint()) is not None:
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        generator.set_state(kept["generator"])
        progress, log = Progress(**kept["progress"]), kept["log"]

    bar = stage.bar(progress.step)
    while not progress.over(recipe):
        largest = recipe.sizes[progress.level]
        size = _draw_size(largest, generator)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * progress.rate(recipe)
        slots = progress.slots(recipe)
        loss, accuracy = loss_and_accuracy(model, data, recipe, size, generator, slots)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, recipe.max_norm)
        optimizer.step()
        progress.advance(recipe, accuracy if size == largest else None)
        if recipe.sizes[progress.level] != largest:
            log.append([progress.step, recipe.sizes[progress.level]])
        bar.update()
        if progress.step % 20 == 0:
            phase = "cooling down" if progress.cooling >= 0 else f"{largest} images"
            bar.set_postfix_str(f"{phase}, accuracy {progress.running:.3f}, loss {loss.item():.3f}")
        if stage.due:
            stage.keep(
                model=model.state_dict(),
                optimizer=optimizer.state_dict(),
                generator=generator.get_state(),
                progress=asdict(progress),
                log=log,
            )
    bar.close()
    model.eval()
    stage.finish(model=model.state_dict(), steps=progress.step, log=log)


def _draw_size(largest: int, generator: torch.Generator) -> int:
    """The largest with probability 0.6, else log-uniform below it."""
    coin, place = torch.rand(2, generator=generator).tolist()
    return largest if coin < 0.6 else round(largest**place)


def draw_slots(
    batch: int, size: int, most: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Lengths of haystacks ``size_B``, uniform from ``size`` to ``most`` images, and in each
    ``size`` different slots ``slots_BN``, ascending."""
    size_B = torch.randint(size, most + 1, (batch,), generator=generator)
    order_BM = torch.rand(batch, most, generator=generator)
    order_BM[torch.arange(most) >= size_B[:, None]] = 2.0
    return size_B, order_BM.argsort(dim=1)[:, :size].sort(dim=1).values
