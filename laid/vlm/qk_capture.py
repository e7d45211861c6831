"""The queries and keys of chosen decoder layers, right before RoPE."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor, nn
from transformers import PreTrainedModel

from laid.vlm.families.family import Family

Captured = dict[int, Tensor]
"""``q_BLHD`` or ``k_BLKD`` by decoder layer."""


@contextmanager
def captured_qk(
    hf: PreTrainedModel, family: Family, layers: Iterable[int]
) -> Iterator[tuple[Captured, Captured]]:
    """Queries and keys of ``layers``, as soon as the block has run the model.

    Activation checkpointing runs every layer a second time during backward; since that happens
    outside the block, where the hooks are gone, the captured tensors stay those of the first pass,
    attached to its graph.
    """
    both: tuple[Captured, Captured] = ({}, {})

    def keep(captured: Captured, layer: int, _: nn.Module, __: object, out: Tensor) -> None:
        captured[layer] = family.split_heads(out)

    with ExitStack() as hooks:
        for layer in sorted(layers):
            modules = family.qk_modules(family.layers(hf)[layer])
            for captured, module in zip(both, modules, strict=True):
                hook = module.register_forward_hook(partial(keep, captured, layer))
                hooks.enter_context(hook)
        yield both


@contextmanager
def first_layers(decoder: nn.Module, count: int | None) -> Iterator[None]:
    """Within, the decoder has its first ``count`` layers alone, and its outputs mean nothing else;
    None: all."""
    if count is None:
        yield
        return
    layers = decoder.layers
    assert isinstance(layers, nn.ModuleList)
    decoder.layers = layers[:count]
    # FSDP2 looks for all parts of a sharded model when it first runs.
    decoder.every_layer = layers
    try:
        yield
    finally:
        del decoder.every_layer
        decoder.layers = layers
