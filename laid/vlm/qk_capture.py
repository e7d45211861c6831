"""The queries and keys of chosen decoder layers, right before RoPE.

Shape suffixes: B batch, L tokens, H query heads, K KV heads (fewer under grouped-query attention),
D head_dim.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn
from transformers import PreTrainedModel

from laid.signals.model_signals import QK
from laid.vlm.families.family import Family


@dataclass
class QKCapture:
    """Hooks on the modules that make a model's queries and keys, silent except inside ``armed()``.

    Activation checkpointing runs every layer a second time during backward; since that happens
    outside ``armed()``, the hooks do not fire again and the captured tensors stay those of the
    first pass, attached to its graph.
    """

    family: Family
    _found: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    _layers: frozenset[int] = frozenset()

    def attach(self, hf: PreTrainedModel) -> "QKCapture":
        """Registers the hooks on every decoder layer; an unarmed hook costs a set look-up."""
        for index, layer in enumerate(self.family.layers(hf)):
            for name, module in zip("qk", self.family.qk_modules(layer), strict=True):
                hook: Callable = partial(self._keep, index, name)
                module.register_forward_hook(hook)
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
            self._found[index, name] = self.family.heads_apart(out)

    def _take(self) -> dict[int, QK]:
        found = {
            layer: QK(self._found[layer, "q"], self._found[layer, "k"])
            for layer in sorted(self._layers)
        }
        self._found.clear()
        return found
