"""Micro-batches of about equal size in tokens: which haystacks of an optimizer step share one."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from laid.common.errors import UserError
from laid.vlm.families.family import Family
from laid.vlm.packed_row import flops_of


@dataclass(frozen=True)
class Packing:
    """How the haystacks of an optimizer step are shared out over ranks and micro-batches.

    Attributes:
        tokens: of each haystack of the training set.
        flops: of each, in any unit; micro-batches are balanced by it.
        step: haystacks of an optimizer step, over all ranks.
        rounds: micro-batches of a rank in each step.
        ranks: how many there are.
        drawn: haystacks of an epoch, where some are drawn more often than others.
    """

    tokens: Sequence[int]
    flops: Sequence[float]
    step: int
    rounds: int
    ranks: int
    drawn: Sequence[int] | None = None

    @property
    def mean_haystacks(self) -> float:
        """Haystacks of a micro-batch, on average."""
        return self.step / (self.rounds * self.ranks)

    @property
    def mean_tokens(self) -> float:
        """Tokens of a micro-batch, on average."""
        return self.mean_haystacks * mean_of(self.tokens, self.drawn)

    def packs(self, haystacks: Sequence[int]) -> list[list[list[int]]]:
        """The micro-batches of one step: for each round, one for each rank.

        The most expensive haystack left goes to the cheapest micro-batch. Those of one round are
        next to each other in cost, as its ranks wait for each other. In a micro-batch haystacks are
        in the order in which they are given.
        """
        by_cost = sorted(range(len(haystacks)), key=lambda at: -self.flops[haystacks[at]])
        packs: list[list[int]] = [[] for _ in range(self.rounds * self.ranks)]
        heap = [(0.0, number) for number in range(len(packs))]
        for at in by_cost:
            cost, number = heap[0]
            packs[number].append(at)
            heapq.heapreplace(heap, (cost + self.flops[haystacks[at]], number))
        dearest = [packs[number] for _, number in sorted(heap, key=lambda one: (-one[0], one[1]))]
        chosen = [[haystacks[at] for at in sorted(pack)] for pack in dearest]
        return [chosen[at : at + self.ranks] for at in range(0, len(chosen), self.ranks)]


def packing_of(
    tokens: Sequence[int],
    family: Family,
    pack_tokens: int,
    step: int,
    ranks: int,
    drawn: Sequence[int] | None = None,
) -> Packing:
    """As few micro-batches as have at most ``pack_tokens`` on average, as many in each step; none
    is empty.

    Args:
        drawn: as ``Packing``.

    Raises:
        UserError: there are fewer haystacks in a step than ranks, or models of the family are not
            run on several haystacks in one row.
    """
    check_packs(family)
    flops = [flops_of(family, count) for count in tokens]
    rounds = rounds_of(step * mean_of(tokens, drawn), pack_tokens, step, ranks)
    return Packing(tokens, flops, step, rounds, ranks, drawn)


def mean_of(tokens: Sequence[int], drawn: Sequence[int] | None) -> float:
    """Tokens of a haystack, on average."""
    return fmean(tokens if drawn is None else [tokens[at] for at in drawn])


def rounds_of(mean: float, pack_tokens: int, step: int, ranks: int) -> int:
    """Micro-batches of a rank in each step.

    Args:
        mean: tokens of a step.

    Raises:
        UserError: there are fewer haystacks in a step than ranks.
    """
    if step < ranks:
        raise UserError(
            f"data.global_batch_size {step}: expected at least {ranks}, a haystack for each device"
        )
    return min(math.ceil(mean / (pack_tokens * ranks)), step // ranks)


def check_packs(family: Family) -> None:
    """Refuses a family whose models are not run on several haystacks in one row.

    Raises:
        UserError: it is one.
    """
    if not family.packs:
        raise UserError(
            f"data.pack_tokens: {family.title} is not run on several haystacks in one row; leave "
            "it out, and set data.batch_size"
        )
