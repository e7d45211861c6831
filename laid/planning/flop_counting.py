"""FLOPs of PyTorch operations: matrix products and attention; a multiply-add counts as two.

Shape suffixes: B batch, H query heads, K KV heads, L queries or keys, D head_dim.
"""

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
        attention: products of queries, keys and values; else products with weights.
        vision: in the vision tower's forward pass.
        again: recomputed in the backward pass (activation checkpointing).
    """

    attention: bool
    vision: bool
    again: bool


def flops_of(
    func: Any, args: Any, kwargs: dict[str, Any], out: Any, attended: Mapping[int, float]
) -> tuple[int, bool] | None:
    """FLOPs of one operation and whether it is attention; None for one that is not counted.

    Args:
        func: the operation, called with ``args`` and ``kwargs``.
        out: its result.
        attended: by number of queries, the share of query-key pairs that count.
    """
    packet = getattr(func, "_overloadpacket", None)
    if packet in _FORWARD:
        causal = kwargs.get("is_causal", args[4] if len(args) > 4 else False)
        return _attention(args[0], args[1], 2, causal is True, attended), True
    if packet in _BACKWARD:
        # Scores are computed again, and each of the two products has two gradients.
        causal = any(value is True for value in (*args, *kwargs.values()))
        return _attention(args[1], args[2], 5, causal, attended), True
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=out)), False
    return None


def _attention(
    q_BHLD: Any, k_BKLD: Any, products: int, causal: bool, attended: Mapping[int, float]
) -> int:
    """Products of [L, D] with [D, L] over all query heads; half of them under a causal mask."""
    batch, heads, queries, head_dim = q_BHLD.shape
    keys = k_BKLD.shape[2]
    flops = 2 * products * batch * heads * queries * keys * head_dim
    if causal:
        return int(flops // 2)
    return int(flops * attended.get(queries, 1.0)) if queries == keys else int(flops)
