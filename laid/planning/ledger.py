"""Memory and FLOPs of whatever runs inside: every storage from its making to its end.

It follows real tensors as well as fake ones, so that its account can be held against a process's.
"""

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from laid.planning.flop_counting import Work, flops_of

KINDS = ("student", "teacher", "gradients", "optimizer", "gathered", "logits", "activations")
"""What memory is for. gathered: parameters and gradients on their way between ranks. activations:
all that is none of the others."""

_METADATA = torch.ops.prim.device.default


@dataclass(eq=False)
class _Storage:
    bytes: int
    kind: str


@dataclass
class Peak:
    """The moment of a phase at which most memory was in use.

    Attributes:
        bytes: how much it was.
        of: how much of it was for what, by ``KINDS``.
    """

    bytes: int
    of: dict[str, int]


@dataclass(eq=False)
class Ledger(TorchDispatchMode):
    """Books the bytes of storages and the FLOPs of operations, by phase.

    Attributes:
        vocabularies: sizes of the last dimension by which logits are told from activations.
        phase: name under which what happens now is booked.
        flops: FLOPs by phase and kind of work.
    """

    vocabularies: frozenset[int] = frozenset()
    phase: str = "start"
    flops: Counter[tuple[str, Work]] = field(default_factory=Counter)
    vision: bool = False
    """Whether the vision tower is at work."""
    attended: dict[int, float] = field(default_factory=dict)
    """By number of queries: the share of query and key pairs that attention in fact looks at, where
    one call stands for several."""

    def __post_init__(self) -> None:
        super().__init__()
        self._events: list[tuple[str, int, _Storage | None]] = []
        self._blind = False
        self._known: dict[int, tuple[Any, _Storage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(issubclass(one, DTensor) for one in types):
            return NotImplemented  # it asks again with what is local
        out = func(*args, **(kwargs or {}))
        if func is _METADATA or self._blind:
            return out
        between = func.namespace in ("fsdp", "c10d")
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._book(leaf, "gathered" if between else self._kind(leaf))
        if number := flops_of(func, args, kwargs or {}, out, self.attended):
            amount, attention = number
            # Activation checkpointing runs forward operations within the backward pass, with
            # gradients on; those of backward itself have them off.
            again = self.phase == "backward" and torch.is_grad_enabled()
            self.flops[self.phase, Work(attention, self.vision, again)] += amount
        return out

    def enter(self, phase: str) -> None:
        """Books what follows under another phase, which begins with what is in use."""
        self.phase = phase
        self._events.append((phase, 0, None))

    def tag(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """Says what tensors are for; it holds for their whole life."""
        for tensor in tensors:
            self._book(tensor, kind).kind = kind

    def peaks(self) -> dict[str, Peak]:
        """The peak of every phase, in the order of their first beginning."""
        now: Counter[str] = Counter()
        total, peaks = 0, cast(dict[str, Peak], {})
        for phase, change, storage in self._events:
            if storage is not None:
                now[storage.kind] += change
                total += change
            if phase not in peaks or total > peaks[phase].bytes:
                peaks[phase] = Peak(total, dict(now))
        return peaks

    @contextmanager
    def watching(self) -> Iterator["Ledger"]:
        """Follows everything within, storages that FSDP2 empties and fills again among it."""
        original = torch.UntypedStorage.resize_
        propagate = ShardingPropagator._propagate_tensor_meta_non_cached

        def resize(storage: torch.UntypedStorage, size: int) -> Any:
            done = original(storage, size)
            if (known := self._known.get(id(storage))) is not None:
                known[1].kind = "gathered"
                self._change(known[1], size - known[1].bytes)
            return done

        def unseen(propagator: ShardingPropagator, schema: Any) -> Any:
            # DTensor runs each operation once on whole fake tensors, to learn of shapes.
            self._blind = True
            try:
                return propagate(propagator, schema)
            finally:
                self._blind = False

        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign, assignment]
        ShardingPropagator._propagate_tensor_meta_non_cached = unseen  # type: ignore[method-assign, assignment]
        try:
            with self:
                yield self
        finally:
            torch.UntypedStorage.resize_ = original  # type: ignore[method-assign]
            ShardingPropagator._propagate_tensor_meta_non_cached = (  # type: ignore[method-assign]
                propagate
            )

    def _kind(self, tensor: Tensor) -> str:
        shape = tensor.shape
        is_logits = len(shape) > 1 and shape[-1] in self.vocabularies
        return "logits" if is_logits and tensor.is_floating_point() else "activations"

    def _book(self, tensor: Tensor, kind: str) -> _Storage:
        if isinstance(tensor, DTensor):
            tensor = tensor.to_local()
        storage = tensor.untyped_storage()
        known = self._known.get(id(storage))
        if known is not None:
            return known[1]
        made = _Storage(0, kind)
        if tensor.device.type == "meta":
            return made

        def end(_: Any, at: int = id(storage)) -> None:
            del self._known[at]
            self._change(made, -made.bytes)

        self._known[id(storage)] = (weakref.ref(storage, end), made)
        self._change(made, storage.nbytes())
        return made

    def _change(self, storage: _Storage, change: int) -> None:
        storage.bytes += change
        self._events.append((self.phase, change, storage))
