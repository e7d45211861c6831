"""The queries and keys of chosen decoder layers, as ``q_proj`` and ``k_proj`` return them.

Shape suffixes: B batch, L tokens, H query heads, K key heads (fewer under grouped-query
attention), D numbers in a head.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from laid.signals.model_signals import QK


@dataclass
class QKCapture:
    """Hooks on the q and k projections of a model, silent except inside ``armed()``.

    Activation checkpointing runs every layer a second time during backward; since that happens
    outside ``armed()``, the hooks do not fire again and the captured tensors stay those of the
    first pass, attached to its graph.
    """

    head_dim: int
    _found: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    _layers: frozenset[int] = frozenset()

    def attach(self, model: Qwen2_5_VLForConditionalGeneration) -> "QKCapture":
        """Registers the hooks on every decoder layer; an unarmed hook costs a set look-up."""
        for index, layer in enumerate(model.model.language_model.layers):
            for name in ("q_proj", "k_proj"):
                hook: Callable = partial(self._keep, index, name)
                projection: nn.Module = getattr(layer.self_attn, name)
                projection.register_forward_hook(hook)
        return self

    @contextmanager
    def armed(self, layers: Sequence[int]) -> Iterator[Callable[[], dict[int, QK]]]:
        """Captures ``layers`` during the block; the yielded function hands the tensors over once.

        Nothing is left behind on exit, whether they were taken or not.
        """
        self._layers = frozenset(layers)
        try:
            yield self._take
        finally:
            self._layers = frozenset()
            self._found.clear()

    def _keep(self, index: int, name: str, _module: nn.Module, _args: object, out: Tensor) -> None:
        if index in self._layers:
            self._found[index, name] = out.unflatten(-1, (-1, self.head_dim))

    def _take(self) -> dict[int, QK]:
        found = {
            layer: QK(self._found[layer, "q_proj"], self._found[layer, "k_proj"])
            for layer in sorted(self._layers)
        }
        self._found.clear()
        return found
