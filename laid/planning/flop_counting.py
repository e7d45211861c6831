"""FLOPs of PyTorch operations: matrix products and attention, a multiplication and an addition
being two."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten
_FORWARD = (
    _aten._scaled_dot_product_flash_attention_for_cpu,
    _aten._scaled_dot_product_flash_attention,
    _aten._scaled_dot_product_efficient_attention,
    _aten._scaled_dot_product_cudnn_attention,
)
_BACKWARD = (
    _aten._scaled_dot_product_flash_attention_for_cpu_backward,
    _aten._scaled_dot_product_flash_attention_backward,
    _aten._scaled_dot_product_efficient_attention_backward,
    _aten._scaled_dot_product_cudnn_attention_backward,
)


@dataclass(frozen=True)
class Work:
    """A kind of work.

    Attributes:
        attention: products of queries, keys and values; else those with weights.
        vision: in the vision tower, on its way forward.
        again: done a second time for the backward pass (activation checkpointing).
    """

    attention: bool
    vision: bool
    again: bool


def flops_of(
    func: Any, args: Any, kwargs: dict[str, Any], out: Any, attended: Mapping[int, float]
) -> tuple[int, bool] | None:
    """FLOPs of one operation and whether it is attention; None for one that is not counted.

    Args:
        attended: by number of queries, the share of pairs that are looked at.
    """
    packet = getattr(func, "_overloadpacket", None)
    if packet in _FORWARD:
        causal = kwargs.get("is_causal", args[4] if len(args) > 4 else False)
        return _attention(args[0], args[1], 2, _is_true(causal), attended), True
    if packet in _BACKWARD:
        # Scores are made again, and each of the two products has two gradients.
        causal = any(value is True for value in (*args, *kwargs.values()))
        return _attention(args[1], args[2], 5, causal, attended), True
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=out)), False
    return None


def _is_true(value: Any) -> bool:
    return value is True


def _attention(
    q_BHLD: Any, k_BKLD: Any, products: int, causal: bool, attended: Mapping[int, float]
) -> int:
    """Products of [L, D] with [D, L] over all heads; half of it where a token sees none after."""
    batch, heads, rows, dim = q_BHLD.shape
    columns = k_BKLD.shape[2]
    whole = 2 * products * batch * heads * rows * columns * dim
    if causal:
        whole //= 2
    elif rows == columns:
        whole = int(whole * attended.get(rows, 1.0))
    return int(whole)
