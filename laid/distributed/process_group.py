"""What ranks tell each other besides tensors. With one process, everything here does nothing."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def ranks() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(mine: T) -> list[T]:
    """What each rank has, rank by rank, on all ranks."""
    if ranks() == 1:
        return [mine]
    found: list[Any] = [None] * ranks()
    dist.all_gather_object(found, mine)
    return found


def gather_rows(mine: Sequence[T]) -> list[T]:
    """The rows of all ranks' batches, in the order in which ``EpochSampler`` dealt them out."""
    return [row for rows in zip(*gather(list(mine)), strict=True) for row in rows]


def made_by_first(make: Callable[[], T]) -> T:
    """What ``make`` returns on rank 0, on every rank; it is called there alone.

    Raises:
        ValueError | OSError: on every rank, if it did on rank 0.
    """
    if ranks() == 1:
        return make()
    made: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            made[0] = make()
        except (ValueError, OSError) as error:
            made[1] = error
        except Exception as error:  # a bug; the others must not wait for what won't come
            made[1] = RuntimeError(f"{type(error).__name__} on rank 0: {error}")
    dist.broadcast_object_list(made, src=0)
    if made[1] is not None:
        raise made[1]
    return made[0]
