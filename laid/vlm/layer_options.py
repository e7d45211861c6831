"""How a decoder's layers are run in training: compiled, or with part of their activations kept."""

from collections.abc import Collection
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import create_selective_checkpoint_contexts
from transformers import PreTrainedModel

from laid.vlm.families.family import Family

Checkpointing = bool | Literal["selective"]
_aten = torch.ops.aten
_KEPT = [
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
]
"""What selective checkpointing does not compute again: it grows with the square of the tokens, and
its result is no larger than the layer's input."""


def checkpoint_layers(model: PreTrainedModel, how: Checkpointing) -> None:
    """Keeps of each layer its input alone for the backward pass, or that and attention's result
    (``selective``)."""
    # The non-reentrant form lets hooks and frozen inputs pass through.
    kwargs: dict[str, Any] = {"use_reentrant": False}
    if how == "selective":
        kwargs["context_fn"] = partial(create_selective_checkpoint_contexts, _KEPT)
    model.activation_checkpointing_enable(kwargs)


def compile_layers(
    hf: PreTrainedModel, family: Family, left_out: Collection[int], backend: str = "inductor"
) -> None:
    """Compiles the decoder's layers, each by itself, for training.

    Answers are made by the layers as they are: with a cache of keys and values every token would be
    another graph.

    Args:
        left_out: layers whose queries and keys are captured, which a compiled graph would not do.
    """
    for at, layer in enumerate(family.layers(hf)):
        if at not in left_out:
            _compile(layer, backend)


def _compile(layer: nn.Module, backend: str) -> None:
    compiled = torch.compile(layer._call_impl, backend=backend, dynamic=True)

    def call(*args: Any, **kwargs: Any) -> Any:
        return (compiled if layer.training else layer._call_impl)(*args, **kwargs)

    layer._compiled_call_impl = call
