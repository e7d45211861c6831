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
        captured[layer] = family.heads_apart(out)

    with ExitStack() as hooks:
        for layer in sorted(layers):
            modules = family.qk_modules(family.layers(hf)[layer])
            for captured, module in zip(both, modules, strict=True):
                hook = module.register_forward_hook(partial(keep, captured, layer))
                hooks.enter_context(hook)
        yield both
