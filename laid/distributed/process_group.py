"""Python objects between the ranks of the process group. With one process nothing is sent."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from laid.common.errors import from_another_rank

T = TypeVar("T")
P = ParamSpec("P")
_KEPT, _ON_ALL = "laid_unprepared", "laid_raised_on_all"


def world_size() -> int:
    """How many ranks there are; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def this_rank() -> int:
    """Which of them this process is; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def _is_simulated() -> bool:
    """Whether the other ranks do not exist, as in ``laid plan``: each has what this one has."""
    return dist.get_backend() == "fake"


def gather(mine: T) -> list[T]:
    """What each rank has, in the order of the ranks, on every rank."""
    if world_size() == 1 or _is_simulated():
        return [mine] * world_size()
    by_rank: list[Any] = [None] * world_size()
    dist.all_gather_object(by_rank, mine)
    return by_rank


def gather_rows(rows: Sequence[T]) -> list[T]:
    """The rows of all ranks' batches on every rank, in the order of ``EpochSampler``, which gives
    consecutive rows to consecutive ranks.

    Args:
        rows: as many on every rank.
    """
    by_rank = gather(list(rows))
    return [row for one_each in zip(*by_rank, strict=True) for row in one_each]


def gather_tensors(mine: Tensor, rows: Sequence[int]) -> list[Tensor]:
    """Each rank's tensor, in the order of the ranks, on every rank. Gradients flow back to the rank
    that a tensor came from.

    Args:
        rows: of each rank's tensor, which may differ in the first dimension.
    """
    if _is_simulated():
        return [mine] * len(rows)
    from torch.distributed.nn.functional import all_gather  # which loads RPC

    padded = torch.cat([mine, mine.new_zeros(max(rows) - len(mine), *mine.shape[1:])])
    by_rank = all_gather(padded)
    return [tensor[:count] for tensor, count in zip(by_rank, rows, strict=True)]


def raised_on_all(check: Callable[P, None]) -> Callable[P, None]:
    """Of a check that all ranks make together: the ``ValueError`` or ``OSError`` of one is raised
    on each, which would otherwise wait for it. One check may be part of another."""

    @wraps(check)
    def on_all(*args: P.args, **kwargs: P.kwargs) -> None:
        mine: Exception | None = None
        try:
            check(*args, **kwargs)
        except (ValueError, OSError) as error:
            if hasattr(error, _ON_ALL):  # by a check that is part of this one
                raise
            mine = error
        for rank, raised in enumerate(gather(mine)):
            if raised is not None:
                setattr(raised, _ON_ALL, True)
                raise raised if rank == this_rank() else from_another_rank(raised)

    return on_all


def kept_for_setup(prepare: Callable[[Any], None]) -> Callable[[Any], None]:
    """Of ``prepare_data``, which Lightning calls on one process of each node: with several ranks
    its ``ValueError`` or ``OSError`` is kept for ``raise_kept``, as the others wait for it."""

    @wraps(prepare)
    def keeps(self: Any) -> None:
        try:
            prepare(self)
        except (ValueError, OSError) as error:
            if world_size() == 1:
                raise
            setattr(self.trainer, _KEPT, error)

    return keeps


def raise_kept(trainer: Any) -> None:
    """Raises what ``kept_for_setup`` kept, if anything; to be called where ``raised_on_all``."""
    if (error := getattr(trainer, _KEPT, None)) is not None:
        raise error


def on_rank_zero(make: Callable[[], T]) -> T:
    """Calls ``make`` on rank 0 alone and returns its result on every rank.

    Raises:
        ValueError | OSError: on every rank, if ``make`` raised it.
        RuntimeError: on every rank, if ``make`` raised anything else.
    """
    if world_size() == 1:
        return make()
    sent: list[Any] = [None, None]
    if this_rank() == 0:
        try:
            sent[0] = make()
        except (ValueError, OSError) as error:
            sent[1] = error
        except Exception as error:  # a bug; the other ranks wait in the broadcast below
            sent[1] = RuntimeError(f"{type(error).__name__} on rank 0: {error}")
    dist.broadcast_object_list(sent, src=0)
    if sent[1] is not None:
        raise sent[1] if this_rank() == 0 else from_another_rank(sent[1])
    return sent[0]
