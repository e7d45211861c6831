"""The order of haystacks, and how a run resumes inside it."""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

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
        sizes: haystack size of every index; then the indices of a step have similar sizes.
        step: indices of an optimizer step, over all ranks.
    """

    size: int
    _: KW_ONLY
    shuffle: bool
    even: bool = False
    drawn_from: int | None = None
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

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator, as it may be
        if not isinstance(self.sampler, EpochSampler):
            # Lightning's overfit_batches puts a sampler of its own here.
            yield from super().__iter__()
            return
        self._taken = self.sampler.start
        per_batch = (self.batch_size or 1) * self.sampler.world_size
        for batch in super().__iter__():
            self._taken = min(self._taken + per_batch, self.sampler.size)
            yield batch
        # The position was that of the resumed epoch; the next epoch starts at 0.
        self.sampler.start = 0

    def place(self) -> dict[str, int]:
        """The position: epoch, and haystacks taken in it over all ranks."""
        if not isinstance(self.sampler, EpochSampler):
            return {}
        return {"epoch": self.sampler.epoch, "taken": self._taken}

    def seek(self, place: dict[str, int]) -> None:
        """Resumes at a ``place``."""
        assert isinstance(self.sampler, EpochSampler)
        self.sampler.seek(place["epoch"], place["taken"])
        self._taken = self.sampler.start
