"""FLOPs of a whole run, from those of one haystack.

For haystacks of other sizes, products with weights scale with the tokens, the decoder's attention
with their square and the vision tower with the images. So one simulated step is enough.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from laid.common.errors import UserError
from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import TrainArgs
from laid.data.loader import EpochSampler
from laid.planning.memory_tracker import Work
from laid.planning.simulated_step import BACKWARD, STUDENT, TEACHER


@dataclass(frozen=True)
class Cost:
    """FLOPs of one haystack, forward and backward.

    Attributes:
        weights, attention: of products with the decoder's weights, and of its attention.
        vision: of the vision towers' forward pass.
        images: of the haystack that was counted.
        tokens: from a number of images to the tokens of their haystack.
    """

    weights: float
    attention: float
    vision: float
    images: int
    tokens: Callable[[int], int]

    @classmethod
    def of(
        cls, flops: Counter[tuple[str, Work]], images: int, batch: int, tokens: Callable[[int], int]
    ) -> "Cost":
        """From the FLOPs of a step of ``batch`` haystacks of ``images``; without recomputation."""
        parts: Counter[str] = Counter()
        for (phase, work), amount in flops.items():
            if phase in (TEACHER, STUDENT, BACKWARD) and not work.again:
                parts[work.part] += amount
        decoder, attention, vision = (parts[n] / batch for n in ("decoder", "attention", "vision"))
        return cls(decoder, attention, vision, images, tokens)

    def at(self, images: int) -> float:
        """FLOPs of a haystack of ``images`` images."""
        longer = self.tokens(images) / self.tokens(self.images)
        of_vision = self.vision * images / self.images
        return self.weights * longer + self.attention * longer**2 + of_vision


def sizes_of(train: TrainArgs, images: int) -> list[int]:
    """Images of each haystack of an epoch: uniformly drawn, as entries are built; with
    ``data.train.source`` or ``mixture``, which a plan does not read, ``images`` for all."""
    if train.source is not None or train.mixture is not None:
        return [images] * train.count
    draw = np.random.default_rng(0)
    return draw.integers(train.min_size, train.max_size + 1, train.count).tolist()


def run_flops(
    cost: Cost, sizes: list[int], data: HaystackDataModule, ranks: int, each: int, epochs: float
) -> float:
    """FLOPs of one rank in a whole run, waiting and padding included.

    Sharded ranks run in step and a micro-batch is padded to its longest haystack, so every haystack
    of a round costs as much as the largest one.

    Args:
        sizes: images of each haystack of an epoch.
        each: haystacks of a rank's micro-batch.
    """
    step = data.global_batch_size
    whole = len(sizes) - len(sizes) % step
    grouped = sizes if data.group_by_size else None
    order = EpochSampler(whole, drawn_from=len(sizes), shuffle=True, sizes=grouped, step=step)
    rounds = torch.tensor(sizes)[list(order)].reshape(-1, each * ranks).amax(dim=1)
    return epochs * each * sum(cost.at(size) for size in rounds.tolist())


def epochs_of(trainer: Any, steps: int) -> float:
    """Epochs of ``steps`` optimizer steps until the trainer's max_epochs or max_steps.

    Raises:
        UserError: neither limits the run.
    """
    by_steps = trainer.max_steps / steps if trainer.max_steps > 0 and steps else None
    ends = [end for end in (trainer.max_epochs, by_steps) if end is not None and end >= 0]
    if not ends:
        raise UserError("the run has no end: set trainer.max_epochs or trainer.max_steps")
    return float(min(ends))
