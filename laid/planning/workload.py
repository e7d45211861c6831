"""FLOPs of a whole run, from those of one haystack.

A haystack of other size costs less in proportion: products with weights by its tokens, the
decoder's attention by their square, the vision tower by its images. So one rehearsal does for all.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from laid.common.errors import UserError
from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import TrainArgs
from laid.data.loader import EpochSampler
from laid.planning.flop_counting import Work
from laid.planning.rehearsal import BACKWARD, STUDENT, TEACHER


@dataclass(frozen=True)
class Cost:
    """FLOPs of one haystack, forward and backward.

    Attributes:
        weights: products of the decoder's tokens with weights.
        attention: the decoder's attention.
        vision: the vision towers, forward.
        images: of the haystack they were counted for.
        tokens: how many tokens a haystack of so many images has.
    """

    weights: float
    attention: float
    vision: float
    images: int
    tokens: Callable[[int], int]

    @classmethod
    def of(
        cls,
        flops: Counter[tuple[str, Work]],
        images: int,
        batch: int,
        tokens: Callable[[int], int],
    ) -> "Cost":
        """What a step of ``batch`` haystacks came to; work done a second time is left out."""
        parts = {"weights": 0.0, "attention": 0.0, "vision": 0.0}
        for (phase, work), amount in flops.items():
            if phase in (TEACHER, STUDENT, BACKWARD) and not work.again:
                of_decoder = "attention" if work.attention else "weights"
                parts["vision" if work.vision else of_decoder] += amount / batch
        return cls(**parts, images=images, tokens=tokens)

    def at(self, images: int) -> float:
        """FLOPs of a haystack of so many images."""
        longer = self.tokens(images) / self.tokens(self.images)
        of_vision = self.vision * images / self.images
        return self.weights * longer + self.attention * longer**2 + of_vision


def sizes_of(train: TrainArgs, images: int) -> list[int]:
    """Images of an epoch's haystacks: uniform, as they are built, or all alike for a source, whose
    sizes a plan does not look up."""
    if train.source is not None:
        return [images] * train.count
    draw = np.random.default_rng(0)
    return draw.integers(train.min_size, train.max_size + 1, train.count).tolist()


def run_flops(
    cost: Cost, sizes: list[int], data: HaystackDataModule, ranks: int, each: int, epochs: float
) -> float:
    """FLOPs of one rank in a whole run, waiting included.

    Sharded ranks run in step, so each pays for the largest haystack of those taken at a time, and
    a batch pays for its longest.

    Args:
        sizes: images of an epoch's haystacks.
        each: haystacks that a rank takes at a time.
    """
    sampler = EpochSampler(
        len(sizes) - len(sizes) % data.global_batch_size,
        drawn_from=len(sizes),
        shuffle=True,
        sizes=sizes if data.group_by_size else None,
        step=data.global_batch_size,
    )
    order = [sizes[at] for at in sampler]
    together = each * ranks
    rounds = [max(order[at : at + together]) for at in range(0, len(order), together)]
    return epochs * each * sum(cost.at(size) for size in rounds)


def epochs_of(trainer: Any, steps: int) -> float:
    """Epochs that a run comes to, whichever of its two ends is first.

    Args:
        trainer: the settings of Lightning's Trainer.
        steps: of an epoch.

    Raises:
        UserError: the run has no end.
    """
    by_steps = trainer.max_steps / steps if trainer.max_steps > 0 and steps else None
    if by_steps is None and trainer.max_epochs is None:
        raise UserError("the hours of a run need its end: set trainer.max_epochs or max_steps")
    ends = [end for end in (by_steps, trainer.max_epochs) if end is not None and end >= 0]
    return float(min(ends))
