"""Memory and FLOPs of whatever runs inside, by phase: every storage from allocation to release.

It tracks real tensors as well as fake ones, so that a plan can be compared with a real process.
"""

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from laid.planning.flop_counting import Work, flops_of

KINDS = ("student", "teacher", "gradients", "optimizer", "gathered", "logits", "activations")
"""What memory is used for. gathered: parameters and gradients in communication between ranks.
activations: everything else."""

_METADATA = torch.ops.prim.device.default


@dataclass(eq=False)
class _Storage:
    bytes: int
    kind: str


@dataclass
class Peak:
    """The moment of a phase at which most memory was in use.

    Attributes:
        bytes: in use at that moment.
        of: the same by kind, one of ``KINDS``.
    """

    bytes: int
    of: dict[str, int]


@dataclass(eq=False)
class MemoryTracker(TorchDispatchMode):
    """Records bytes of storages and FLOPs of operations, by phase.

    Attributes:
        vocabularies: vocabulary sizes; a float tensor with such a last dimension counts as logits.
        phase: name of the current phase.
        flops: FLOPs by phase and kind of work.
    """

    vocabularies: frozenset[int] = frozenset()
    phase: str = "start"
    flops: Counter[tuple[str, Work]] = field(default_factory=Counter)
    vision: bool = False
    """Whether the vision tower's forward pass is running."""
    attended: dict[int, float] = field(default_factory=dict)
    """By number of queries: the share of query-key pairs within an attention window, where one call
    stands for a call per window."""

    def __post_init__(self) -> None:
        super().__init__()
        self._events: list[tuple[str, int, _Storage | None]] = []
        self._paused = False
        self._storages: dict[int, tuple[Any, _Storage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(issubclass(one, DTensor) for one in types):
            return NotImplemented  # DTensor dispatches again, with local tensors
        out = func(*args, **(kwargs or {}))
        if func is _METADATA or self._paused:
            return out
        communicates = func.namespace in ("fsdp", "c10d")
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._record(leaf, "gathered" if communicates else self._kind(leaf))
        if counted := flops_of(func, args, kwargs or {}, out, self.attended):
            flops, attention = counted
            # Activation checkpointing runs forward operations within the backward pass, with
            # gradients on; those of backward itself have them off.
            again = self.phase == "backward" and torch.is_grad_enabled()
            self.flops[self.phase, Work(attention, self.vision, again)] += flops
        return out

    def enter(self, phase: str) -> None:
        """Begins a phase, with the memory in use now."""
        self.phase = phase
        self._events.append((phase, 0, None))

    def tag(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """Sets the kind of tensors, for their whole lifetime."""
        for tensor in tensors:
            self._record(tensor, kind).kind = kind

    def peaks(self) -> dict[str, Peak]:
        """The peak of every phase, in the order in which they first began."""
        now: Counter[str] = Counter()
        total = 0
        peaks: dict[str, Peak] = {}
        for phase, change, storage in self._events:
            if storage is not None:
                now[storage.kind] += change
                total += change
            if phase not in peaks or total > peaks[phase].bytes:
                peaks[phase] = Peak(total, dict(now))
        return peaks

    @contextmanager
    def watching(self) -> Iterator["MemoryTracker"]:
        """Tracks everything within, including storages that FSDP2 frees and allocates again."""
        resize = torch.UntypedStorage.resize_
        propagate = ShardingPropagator._propagate_tensor_meta_non_cached

        def tracked_resize(storage: torch.UntypedStorage, size: int) -> Any:
            done = resize(storage, size)
            if (known := self._storages.get(id(storage))) is not None:
                known[1].kind = "gathered"
                self._change(known[1], size - known[1].bytes)
            return done

        def untracked_propagate(propagator: ShardingPropagator, schema: Any) -> Any:
            # DTensor runs each operation once on full fake tensors, to find output shapes.
            self._paused = True
            try:
                return propagate(propagator, schema)
            finally:
                self._paused = False

        with (
            patch.object(torch.UntypedStorage, "resize_", tracked_resize),
            patch.object(
                ShardingPropagator, "_propagate_tensor_meta_non_cached", untracked_propagate
            ),
            self,
        ):
            yield self

    def _kind(self, tensor: Tensor) -> str:
        shape = tensor.shape
        is_logits = len(shape) > 1 and shape[-1] in self.vocabularies
        return "logits" if is_logits and tensor.is_floating_point() else "activations"

    def _record(self, tensor: Tensor, kind: str) -> _Storage:
        if isinstance(tensor, DTensor):
            tensor = tensor.to_local()
        storage = tensor.untyped_storage()
        known = self._storages.get(id(storage))
        if known is not None:
            return known[1]
        new = _Storage(0, kind)
        if tensor.device.type == "meta":
            return new

        def release(_: Any, key: int = id(storage)) -> None:
            del self._storages[key]
            self._change(new, -new.bytes)

        self._storages[id(storage)] = (weakref.ref(storage, release), new)
        self._change(new, storage.nbytes())
        return new

    def _change(self, storage: _Storage, change: int) -> None:
        storage.bytes += change
        self._events.append((self.phase, change, storage))
