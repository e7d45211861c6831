"""FLOPs of a whole run, from those of one haystack.

For haystacks of other sizes, products with weights scale with the tokens, the decoder's attention
with their square and the vision tower with the images. So one simulated step is enough.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from laid.common.errors import UserError
from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import TrainArgs
from laid.data.loader import EpochSampler, PackedSteps, training_order
from laid.data.packing import packing_of
from laid.planning.memory_tracker import Work
from laid.planning.simulated_step import BACKWARD, STUDENT, TEACHER
from laid.vlm.families.family import Family


@dataclass(frozen=True)
class Cost:
    """FLOPs of haystacks, forward and backward.

    Attributes:
        weights: of products with the decoder's weights, for a token.
        attention: of the decoder's attention, for a squared token of a haystack.
        vision: of the vision towers' forward pass, for an image.
        tokens: from a number of images to the tokens of their haystack.
    """

    weights: float
    attention: float
    vision: float
    tokens: Callable[[int], int]

    @classmethod
    def of(
        cls,
        flops: Counter[tuple[str, Work]],
        haystacks: Sequence[int],
        tokens: Callable[[int], int],
    ) -> "Cost":
        """From the FLOPs of a micro-batch of haystacks of so many images; without recomputation."""
        parts: Counter[str] = Counter()
        for (phase, work), amount in flops.items():
            if phase in (TEACHER, STUDENT, BACKWARD) and not work.again:
                parts[work.part] += amount
        lengths = [tokens(images) for images in haystacks]
        return cls(
            parts["decoder"] / sum(lengths),
            parts["attention"] / sum(length**2 for length in lengths),
            parts["vision"] / sum(haystacks),
            tokens,
        )

    def at(self, images: int) -> float:
        """FLOPs of a haystack of ``images`` images."""
        length = self.tokens(images)
        return self.weights * length + self.attention * length**2 + self.vision * images


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
    """FLOPs of one rank in a whole run on padded micro-batches, waiting included.

    Sharded ranks run in step and a micro-batch is padded to its longest haystack, so every haystack
    of a round costs as much as the largest one.

    Args:
        sizes: images of each haystack of an epoch.
        each: haystacks of a rank's micro-batch.
    """
    order = _order(sizes, data)
    rounds = torch.tensor(sizes)[list(order)].reshape(-1, each * ranks).amax(dim=1)
    return epochs * each * sum(cost.at(size) for size in rounds.tolist())


def packed_steps(
    sizes: list[int],
    data: HaystackDataModule,
    family: Family,
    ranks: int,
    tokens: Callable[[int], int],
) -> PackedSteps:
    """The packed micro-batches of an epoch.

    Args:
        sizes: images of each haystack of an epoch.
        tokens: from a number of images to the tokens of their haystack.

    Raises:
        UserError: as ``laid.data.packing.packing_of``.
    """
    assert data.pack_tokens is not None
    packing = packing_of(
        [tokens(size) for size in sizes], family, data.pack_tokens, data.global_batch_size, ranks
    )
    return PackedSteps(_order(sizes, data), packing, rank=0)


def packed_flops(cost: Cost, sizes: list[int], steps: PackedSteps, epochs: float) -> float:
    """FLOPs of one rank in a whole run on packed micro-batches: in each round all ranks wait for
    the largest."""
    return epochs * sum(
        max(sum(cost.at(sizes[at]) for at in pack) for pack in packs)
        for rounds in steps.steps()
        for packs in rounds
    )


def _order(sizes: list[int], data: HaystackDataModule) -> EpochSampler:
    """The run's order of haystacks of all ranks."""
    grouped = sizes if data.group_by_size else None
    return training_order(len(sizes), data.global_batch_size, grouped)


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
