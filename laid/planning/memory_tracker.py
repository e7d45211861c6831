"""Memory and FLOPs of whatever runs inside, by phase: every storage from allocation to release.

It tracks real tensors as well as fake ones, so that a plan can be compared with a real process.
FLOPs are those of matrix products and attention; a multiply-add counts as two.

Shape suffixes: B batch, H query heads, L queries, D head_dim.
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
from torch.utils.flop_counter import flop_registry

KINDS = ("student", "teacher", "gradients", "optimizer", "gathered", "logits", "activations")
"""What memory is used for. gathered: parameters and gradients in communication between ranks.
activations: everything else."""

_METADATA = torch.ops.prim.device.default


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

    @property
    def part(self) -> str:
        """vision, attention or decoder."""
        return "vision" if self.vision else "attention" if self.attention else "decoder"


@dataclass(eq=False)
class _Storage:
    bytes: int
    kind: str


@dataclass(eq=False)
class MemoryTracker(TorchDispatchMode):
    """Records bytes of storages and FLOPs of operations, by phase.

    Attributes:
        vocabularies: a float tensor whose last dimension is one of these sizes counts as logits.
        vision: whether the vision tower's forward pass is running.
        attended: by number of queries, the share of query-key pairs within an attention window,
            where one call stands for a call per window.
    """

    vocabularies: frozenset[int] = frozenset()
    phase: str = "start"
    flops: Counter[tuple[str, Work]] = field(default_factory=Counter)
    vision: bool = False
    attended: dict[int, float] = field(default_factory=dict)

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
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is _METADATA or self._paused:
            return out
        communicates = func.namespace in ("fsdp", "c10d")
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                is_logits = leaf.ndim > 1 and leaf.shape[-1] in self.vocabularies
                kind = "logits" if is_logits and leaf.is_floating_point() else "activations"
                self._record(leaf, "gathered" if communicates else kind)
        packet = getattr(func, "_overloadpacket", None)
        attention = "scaled_dot_product" in str(packet)
        if attention or packet in flop_registry:
            # Activation checkpointing runs forward operations within the backward pass, with
            # gradients on; those of backward itself have them off.
            again = self.phase == "backward" and torch.is_grad_enabled()
            work = Work(attention, self.vision, again)
            self.flops[self.phase, work] += (
                self._attention(func, args, kwargs)
                if attention
                else int(flop_registry[packet](*args, **kwargs, out_val=out))
            )
        return out

    def enter(self, phase: str) -> None:
        """Begins a phase, with the memory in use now."""
        self.phase = phase
        self._events.append((phase, 0, None))

    def tag(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """Sets the kind of tensors, for their whole lifetime."""
        for tensor in tensors:
            self._record(tensor, kind).kind = kind

    def peaks(self) -> dict[str, Counter[str]]:
        """Bytes of each of ``KINDS`` at the peak of every phase, in the order in which phases first
        began."""
        now: Counter[str] = Counter()
        peaks: dict[str, Counter[str]] = {}
        for phase, change, storage in self._events:
            if storage is not None:
                now[storage.kind] += change
            if phase not in peaks or (change > 0 and now.total() > peaks[phase].total()):
                peaks[phase] = now.copy()
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
            patch.object(ShardingPropagator, propagate.__name__, untracked_propagate),
            self,
        ):
            yield self

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

    def _attention(self, func: Any, args: Any, kwargs: dict[str, Any]) -> int:
        """FLOPs of products of [L, D] with [D, L] over all query heads: half under a causal mask,
        and of a tower those within windows."""
        names = (argument.name for argument in func._schema.arguments)
        given = dict(zip(names, args, strict=False)) | kwargs
        q_BHLD, queries, keys = given["query"], given["query"].shape[2], given["key"].shape[2]
        # Backward, scores are computed again, and each of the two products has two gradients.
        products = 5 if "backward" in str(func) else 2
        share = self.attended.get(queries, 1.0) if queries == keys else 1.0
        causal = given.get("is_causal", False)
        return int(2 * products * q_BHLD.numel() * keys * (0.5 if causal else share))
