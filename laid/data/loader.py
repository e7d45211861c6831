"""The order of haystacks, and how a run resumes inside it."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from laid.data.mixture import Mixture
from laid.data.packing import Packing
from laid.data.prompt import Collate, HaystackDataset, Side

log = logging.getLogger(__name__)

POOL = 50
"""Optimizer steps whose haystacks are sorted by size together (``sizes``)."""


@dataclass(eq=False)
class EpochSampler(Sampler[int]):
    """Every index once an epoch, in an order that depends on seed and epoch alone.

    Rank r of w takes places r, r + w, r + 2w, ... of the common order, so the haystacks of a
    global step are the same for any number of ranks. It can start anywhere in an epoch.

    Attributes:
        size: indices of an epoch, over all ranks.
        even: give every rank equally many indices: if the last round is incomplete, the first
            indices are repeated, as ``~index`` to mark the repeat.
        drawn_from: number of indices that an epoch's are drawn from; None: ``size``.
        mixture: chooses these indices in each epoch; None: they are the same in all.
        sizes: haystack size of every index; then the indices of a step have similar sizes.
        step: indices of an optimizer step, over all ranks.
    """

    size: int
    _: KW_ONLY
    shuffle: bool
    even: bool = False
    drawn_from: int | None = None
    mixture: Mixture | None = None
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    sizes: Sequence[int] | None = None
    step: int = 1
    epoch: int = field(default=0, init=False)
    start: int = field(default=0, init=False)

    def set_epoch(self, epoch: int) -> None:
        """Moves to the beginning of an epoch, unless it is inside that epoch already."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def seek(self, epoch: int, start: int) -> None:
        """Moves to a position in the common order of an epoch; the end is the next one's start."""
        if start >= self.size:
            epoch, start = epoch + 1, 0
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        """Indices of this rank in a whole epoch, wherever it starts: the epoch's progress is
        counted against it."""
        first = 0 if self.even else self.rank
        return len(range(first, self.size, self.world_size))

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.size))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            drawn_from = self.size if self.drawn_from is None else self.drawn_from
            order = torch.randperm(drawn_from, generator=generator).tolist()[: self.size]
            if self.mixture is not None:
                drawn = self.mixture.epoch(self.seed, self.epoch)
                order = [drawn[at] for at in order]
            if self.sizes is not None:
                order = self._grouped(order, self.sizes, generator)
        if self.even:
            short = -len(order) % self.world_size
            order += [~order[at % len(order)] for at in range(short)]
        yield from order[self.start + self.rank :: self.world_size]

    def _grouped(
        self, order: list[int], sizes: Sequence[int], generator: torch.Generator
    ) -> list[int]:
        """Sorts pools of ``POOL`` steps by size, and shuffles the steps."""
        steps = []
        for at in range(0, len(order), POOL * self.step):
            pool = sorted(order[at : at + POOL * self.step], key=sizes.__getitem__)
            steps += [pool[i : i + self.step] for i in range(0, len(pool), self.step)]
        shuffled = torch.randperm(len(steps), generator=generator).tolist()
        return [index for step in shuffled for index in steps[step]]


class PackedSteps(Sampler[list[int]]):
    """A rank's micro-batches of an epoch, step by step.

    ``sampler`` is the order of all ranks, so the haystacks of a step are those of an unpacked run.
    """

    def __init__(self, sampler: EpochSampler, packing: Packing, rank: int):
        self.sampler, self.packing, self.rank = sampler, packing, rank

    def __len__(self) -> int:
        return self.sampler.size // self.packing.step * self.packing.rounds

    def __iter__(self) -> Iterator[list[int]]:
        for rounds in self.steps():
            yield from (packs[self.rank] for packs in rounds)

    def steps(self) -> Iterator[list[list[list[int]]]]:
        """Each step of the epoch, as ``Packing.packs``."""
        order = iter(self.sampler)
        while len(step := list(islice(order, self.packing.step))) == self.packing.step:
            yield self.packing.packs(step)

    def largest(self) -> list[int]:
        """The micro-batch of most tokens in the epoch, on any rank."""
        tokens = self.packing.tokens
        every = (pack for rounds in self.steps() for packs in rounds for pack in packs)
        return max(every, key=lambda pack: sum(tokens[at] for at in pack))


class HaystackLoader(DataLoader):
    """A DataLoader that knows how many haystacks were taken from it.

    It counts what the trainer took, not what the workers prefetched, over all ranks, so that a run
    can resume with another number of workers or ranks.

    Lightning supports loaders with a state, but restores it too late for a loader that is needed
    earlier, as ours is to count the steps of the schedule; so the data module saves the position
    (``HaystackDataModule.state_dict``).
    """

    def __init__(self, dataset: Dataset, **options: Any):
        super().__init__(dataset, **options)
        self._taken = 0

    @property
    def order(self) -> EpochSampler | None:
        """The order of haystacks; None where Lightning's overfit_batches has put a sampler of its
        own in its place."""
        batches = self.batch_sampler
        order = batches.sampler if isinstance(batches, PackedSteps) else self.sampler
        return order if isinstance(order, EpochSampler) else None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator, as it may be
        order = self.order
        if order is None:
            yield from super().__iter__()
            return
        self._taken = begin = order.start
        haystacks, batches = (self.batch_size or 1) * order.world_size, 1
        if isinstance(self.batch_sampler, PackedSteps):
            # Those of a step come in an order of their own: they count when all are taken.
            haystacks, batches = self.batch_sampler.packing.step, self.batch_sampler.packing.rounds
        for count, batch in enumerate(super().__iter__(), start=1):
            self._taken = min(begin + count // batches * haystacks, order.size)
            yield batch
        # The position was that of the resumed epoch; the next epoch starts at 0.
        order.start = 0

    def place(self) -> dict[str, int]:
        """The position: epoch, and haystacks taken in it over all ranks."""
        order = self.order
        return {} if order is None else {"epoch": order.epoch, "taken": self._taken}

    def seek(self, place: dict[str, int]) -> None:
        order = self.order
        assert order is not None
        order.seek(place["epoch"], place["taken"])
        self._taken = order.start


def training_order(
    haystacks: int, step: int, sizes: Sequence[int] | None = None, **how: Any
) -> EpochSampler:
    """The order of ``haystacks`` in whole steps; what an epoch has over is left out, other
    haystacks each time. ``how``: further attributes of ``EpochSampler``."""
    whole = haystacks - haystacks % step
    return EpochSampler(whole, drawn_from=haystacks, shuffle=True, sizes=sizes, step=step, **how)


def training_loader(
    data: HaystackDataset,
    order: EpochSampler,
    batch_size: int,
    packing: Packing | None,
    rank: int,
    workers: int,
) -> HaystackLoader:
    """Training batches, padded on the right: of ``batch_size`` haystacks, or packed.

    Args:
        order: of this rank; of all ranks where there is a ``packing``.
    """
    how: dict[str, Any] = {"sampler": order, "batch_size": batch_size}
    mean_haystacks = None
    if packing is not None:
        steps, mean_haystacks = PackedSteps(order, packing, rank), packing.mean_haystacks
        how = {"batch_sampler": steps}
        most = sum(packing.tokens[at] for at in steps.largest())
        size = f"{packing.mean_tokens:,.0f} tokens on average, at most {most:,} in this epoch"
        text = "data.pack_tokens: micro-batches a step and device: %d, of %s"
        log.info(text, packing.rounds, size)
    collate = Collate(data.encoder.pad_id, "right", mean_haystacks)
    return HaystackLoader(
        data,
        **how,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def padded_loader(
    data: HaystackDataset, order: Sampler[int], size: int, side: Side, workers: int
) -> DataLoader:
    """Batches of ``size`` haystacks, padded on one side."""
    collate = Collate(data.encoder.pad_id, side)
    return DataLoader(
        data,
        batch_size=size,
        sampler=order,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
