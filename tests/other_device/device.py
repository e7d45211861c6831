"""A device of another kind than the CPU, "other", for machines that have no accelerator.

Its tensors are a subclass that wraps tensors of the CPU, and a dispatch mode runs their operations
there. What CUDA refuses because of where tensors are, it refuses:

- operations on tensors of both devices, but for copies, indices of the CPU, and numbers (tensors
  without dimensions) in pointwise operations;
- reading memory from Python (``numpy()``), and random numbers by a generator of the CPU.

And it records the operations for which CUDA's host would wait, copies among them. It says nothing
of kernels, of their precision and speed, of memory, streams or 16 bits, and it has no collectives.

torch can register one such device in a process, and for good: use it in processes of their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from other_device.host_reads import COPIES, INDEXED, asked_by, waits
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_aten = torch.ops.aten
_TAKE_NUMBERS = {*INDEXED, _aten.masked_fill, _aten.masked_fill_, _aten.fill, _aten.fill_}


class Other(Tensor):
    """A tensor of the device; ``raw`` has its numbers."""

    raw: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: Tensor) -> "Other":
        place = {"strides": raw.stride(), "storage_offset": raw.storage_offset()}
        device = torch.device("other", 0)
        made = torch.Tensor._make_wrapper_subclass(
            cls, raw.shape, dtype=raw.dtype, device=device, **place
        )
        made.raw = raw
        return made

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol: int) -> Any:  # files are read onto the CPU
        return self.raw.detach().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return f"Other({self.raw})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None) -> Any:
        return _run(func, args, kwargs or {}, [])


class OtherDevice(TorchDispatchMode):
    """Where operations are on the device.

    Attributes:
        operations: how many there were, to see that a run was there.
        waited: the operations that the host waited for, each with the function of laid that asked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.waited: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():  # where operations come that autograd has taken apart
            with self:
                if (out := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return out
        self.operations += any(issubclass(one, Other) for one in types)
        return _run(func, args, kwargs, self.waited)


@contextmanager
def other_device() -> Iterator[OtherDevice]:
    """Registers the device, and runs what is within with it."""
    _setup_privateuseone_for_python_backend("other")
    torch.other.get_amp_supported_dtype = lambda: [torch.bfloat16]
    # Of a parameter that goes to the device, the object stays, so that tied weights stay tied.
    torch.__future__.set_swap_module_params_on_conversion(True)
    library = torch.library.Library("aten", "IMPL")
    with OtherDevice() as device, torch.autograd.set_multithreading_enabled(False):
        # What torch.tensor(numbers, device=...) calls comes here, past the mode.
        def past_the_mode(func: Any, *args: Any, **kwargs: Any) -> Any:
            return _run(func.default, args, kwargs, device.waited)

        def copied(source: Tensor, target: Tensor, *how: bool) -> Tensor:
            return past_the_mode(_aten.copy_, target, source, *how)

        library.impl("_copy_from", copied, "PrivateUse1")
        for name in ("empty_strided", "_local_scalar_dense"):
            library.impl(name, partial(past_the_mode, getattr(_aten, name)), "PrivateUse1")
        yield device


def _run(func: Any, args: tuple, kwargs: dict[str, Any], waited: list[str]) -> Any:
    packet = func._overloadpacket
    ours = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Other)]
    given = kwargs.get("device")
    there = bool(ours) if given is None else torch.device(given).type == "other"
    if packet is _aten.copy_:
        there = isinstance(args[0], Other)
    if ours:
        _check(func, args, kwargs)
    if there and kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: a generator of the CPU, for a tensor on other")
    if (ours or there) and waits(func, args, kwargs):
        waited.append(f"{packet} {asked_by()}")
    plain_args, plain_kwargs = tree_map(_plain, (args, kwargs))
    if packet is _aten.histc:  # of whole numbers too, on CUDA
        plain_args = (plain_args[0].float(), *plain_args[1:])
    out = func(*plain_args, **plain_kwargs)
    if not there:
        return out
    known = {id(x.raw): x for x in ours}
    out = tree_map_only(Tensor, lambda x: known[id(x)] if id(x) in known else Other(x), out)
    return return_and_correct_aliasing(func, args, kwargs, out)


def _plain(x: Any) -> Any:
    if isinstance(x, torch.device):
        return torch.device("cpu") if x.type == "other" else x
    return x.raw if isinstance(x, Other) else x


def _check(func: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    packet = func._overloadpacket
    if packet in COPIES:
        return
    if packet in INDEXED and isinstance(args[0], Other):
        args = (args[0], *args[2:])  # an index may be on the CPU
    numbers = torch.Tag.pointwise in func.tags or packet in _TAKE_NUMBERS
    written = {at for at, x in enumerate(func._schema.arguments) if x.is_write}
    for at, one in enumerate((*args, kwargs)):
        for x in tree_leaves(one):
            if not isinstance(x, Tensor) or isinstance(x, Other):
                continue
            if x.dim() or not numbers or at in written:
                raise RuntimeError(f"{func}: tensors on other and cpu, of shape {tuple(x.shape)}")
