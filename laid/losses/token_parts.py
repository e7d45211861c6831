"""Losses over many tokens, part by part, so that no float32 copy of whole queries or keys exists.

Shape suffixes: B batch, L tokens.
"""

from collections.abc import Callable

from torch import Tensor
from torch.utils.checkpoint import checkpoint

PART = 2**22
"""Numbers of a part: 16 MiB in float32. What is smaller is computed at once, in one sum."""


def part_length(each: int) -> int:
    """Tokens of a part.

    Args:
        each: numbers of a token in the largest tensor that is computed of it, over the batch.
    """
    return max(1, PART // max(1, each))


def by_part(compute: Callable[..., Tensor], length: int, *of_tokens: Tensor) -> list[Tensor]:
    """``compute`` of each part of tensors [B, L, ...]; of several parts nothing is kept for the
    backward pass, which computes them again one by one."""
    parts = list(zip(*(x.split(length, dim=1) for x in of_tokens), strict=True))
    if len(parts) == 1:
        return [compute(*of_tokens)]
    return [
        checkpoint(compute, *part, use_reentrant=False, preserve_rng_state=False) for part in parts
    ]
