"""Runs the module's own training step and test in a ``fake_floats``, and counts memory and FLOPs.

The module, its objective, the way models are built and sharded, and the optimizer are those of
``laid fit``; what is left out is Lightning's loop around them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._pytree import tree_leaves

from laid.data.prompt import Batch
from laid.planning.fake_floats import fake_floats
from laid.planning.memory_tracker import MemoryTracker
from laid.planning.planned_inputs import haystack_inputs, packed_inputs
from laid.planning.planned_teacher import PlannedChoice
from laid.signals.model_inputs import ModelInputs
from laid.training.module import LaidModule
from laid.training.placement import Placement
from laid.training.sharded_strategy import ShardedStrategy
from laid.vlm.families.family import Grid
from laid.vlm.model_loading import ModelArgs, load_config
from laid.vlm.planned_calls import attend_at_once, experts_at_once
from laid.vlm.vision_language_model import VLM

BUILT, TEACHER, STUDENT = "models built", "teacher", "student"
BACKWARD, OPTIMIZER, TEST = "backward", "optimizer", "test"
"""Phases. The loss is booked with the student's forward pass."""
STEPS = 2
"""The first has no optimizer state yet and the second begins with the gradients of the first."""


@dataclass(frozen=True)
class Setting:
    """What is simulated.

    Attributes:
        devices: ranks that the models are sharded across; None: one device, no sharding.
        grid: patches of an image in time, height and width.
        batch: haystacks in a micro-batch.
        packed: in place of images and batch, the images of each haystack of a packed micro-batch of
            training.
        accumulates: whether a step sums the gradients of several micro-batches.
        clip: gradient norm to clip to; None: no clipping.
    """

    devices: int | None
    precision: str
    images: int
    grid: Grid
    batch: int = 1
    packed: tuple[int, ...] = ()
    accumulates: bool = False
    clip: float | None = None

    @property
    def haystacks(self) -> tuple[int, ...]:
        """Images of each haystack of a micro-batch of training."""
        return self.packed or (self.images,) * self.batch


class PlannedModule(LaidModule):
    """``LaidModule`` without a tokenizer, of whose vocabulary a plan needs only the size, and
    without a cache of a teacher's signals."""

    _choice = PlannedChoice

    @staticmethod
    def _tokenizer_of(args: ModelArgs) -> Any:
        return _Vocabulary([None] * load_config(args).text_config.vocab_size)


class _Vocabulary(list[None]):
    def get_vocab(self) -> dict[str, int]:
        return {}


class PlannedStrategy(ShardedStrategy):
    """``laid_fsdp`` as it is in the middle of a run, or one device; a plan reads no weights."""

    def __init__(self, mesh: DeviceMesh | None, precision: str, weights: bool = False):
        super().__init__()
        self._device_mesh = mesh
        self._weights = weights
        # 16-mixed takes as much memory, but its gradient scaler needs a GPU.
        mixed = MixedPrecision("bf16-mixed", "cpu") if precision != "32-true" else Precision()
        if mesh is None:
            self._precision_plugin = mixed
        else:
            self.precision_plugin = mixed

    @property
    def placement(self) -> Placement:
        of_run = Placement() if self._device_mesh is None else super().placement
        return replace(of_run, weights=self._weights)


def simulate_training(module: LaidModule, setting: Setting, real: bool = False) -> MemoryTracker:
    """Two steps of training on one of the ranks.

    Args:
        real: with real tensors, to compare a plan with; the other ranks are fake all the same.

    Raises:
        UserError: as ``laid fit`` before its first step.
    """
    tracker = _tracker(module)
    place = nullcontext() if real else fake_floats()
    with _ranks(setting.devices) as mesh, place, tracker.watching():
        strategy = PlannedStrategy(mesh, setting.precision, weights=real)
        tracker.enter(BUILT)
        optimizer = prepare_training(module, strategy, setting)
        _tag_and_attend(module, tracker, real)
        watch_teacher(module, tracker.enter)
        for step in range(STEPS):
            tracker.flops.clear()
            tracker.enter(STUDENT)
            inputs = _inputs(module, setting, with_answer=True)
            if real:
                inputs.pixel_values_PC.normal_()
            fresh = step == 0 or not setting.accumulates
            train_once(module, optimizer, strategy, setting, inputs, fresh, tracker.enter)
            del inputs
            tracker.tag("gradients", [p.grad for p in module.parameters() if p.grad is not None])
            states = tree_leaves(list(optimizer.state.values()))
            tracker.tag("optimizer", [state for state in states if isinstance(state, Tensor)])
    return tracker


def simulate_test(module: LaidModule, setting: Setting) -> MemoryTracker:
    """The first two tokens of an answer, on one device, without sharding."""
    tracker = _tracker(module)
    with fake_floats(), tracker.watching():
        strategy = PlannedStrategy(None, setting.precision)
        _build(module, "test", strategy, setting)
        _tag_and_attend(module, tracker)
        tracker.enter(TEST)
        with strategy.precision_plugin.test_step_context():
            module.student.answer(_inputs(module, setting, with_answer=False), 2)
    return tracker


def prepare_training(
    module: LaidModule,
    strategy: PlannedStrategy,
    setting: Setting,
    device: torch.device | None = None,
) -> torch.optim.Optimizer:
    """Builds the models and the optimizer; moves models that are not sharded to ``device``."""
    _build(module, "fit", strategy, setting)
    if device is not None:
        module.to(device)
        if module.teacher is not None:
            module.teacher.to(device)
    optimizer: torch.optim.Optimizer = module.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        # AdamW's default on a GPU; on the CPU it would update one parameter after the other.
        group["foreach"] = not group["fused"]
    return optimizer


def train_once(
    module: LaidModule,
    optimizer: torch.optim.Optimizer,
    strategy: PlannedStrategy,
    setting: Setting,
    inputs: ModelInputs,
    fresh: bool,
    enter: Callable[[str], None],
) -> None:
    """One batch and one optimizer step, in Lightning's order: after the forward pass, gradients
    are freed if ``fresh``, else kept as those of earlier micro-batches. ``enter`` is called with
    each phase that begins after the student's.
    """
    accumulate(module, optimizer, strategy, inputs, fresh, enter)
    enter(OPTIMIZER)
    if setting.clip:
        strategy.precision_plugin.clip_gradients(optimizer, setting.clip)
    optimizer.step()


def accumulate(
    module: LaidModule,
    optimizer: torch.optim.Optimizer,
    strategy: PlannedStrategy,
    inputs: ModelInputs,
    fresh: bool,
    enter: Callable[[str], None],
) -> None:
    """The part of ``train_once`` that each micro-batch of a step has."""
    with strategy.precision_plugin.train_step_context():
        loss = module.training_step(Batch(inputs, (), ()), 0)
    module._seen.clear()
    if fresh:
        optimizer.zero_grad()
    enter(BACKWARD)
    loss.backward()


def watch_teacher(module: LaidModule, enter: Callable[[str], None]) -> None:
    """Calls ``enter`` where the teacher's phase of a step begins, and the student's."""
    for vlm in _teachers(module):
        inner = vlm.signals

        def signals(*args: Any, inner: Callable[..., Any] = inner) -> Any:
            enter(TEACHER)
            try:
                return inner(*args)
            finally:
                enter(STUDENT)

        vlm.signals = signals  # type: ignore[method-assign, assignment]


def _tag_and_attend(module: LaidModule, tracker: MemoryTracker, real: bool = False) -> None:
    """Tags the models; unless ``real``, makes vision towers attend and experts compute in one call,
    and marks in the tracker when a tower runs."""
    tracker.tag("student", chain(module.parameters(), module.buffers()))
    for vlm in (module.student, *_teachers(module)):
        if vlm is not module.student:
            tracker.tag("teacher", chain(vlm.parameters(), vlm.buffers()))
        if not real:
            attend_at_once(vlm.hf, tracker.attended.__setitem__)
            experts_at_once(vlm.hf)
            tower = vlm.family.tower(vlm.hf)
            tower.register_forward_pre_hook(lambda *_: setattr(tracker, "vision", True))
            tower.register_forward_hook(lambda *_: setattr(tracker, "vision", False))


def _teachers(module: LaidModule) -> list[VLM]:
    vlm = getattr(module.teacher, "vlm", None)
    return [] if vlm is None else [vlm]


def _build(module: LaidModule, stage: str, strategy: PlannedStrategy, setting: Setting) -> None:
    module.trainer = SimpleNamespace(  # what the module reads of it while it is built
        state=SimpleNamespace(fn=stage),
        precision=setting.precision,
        precision_plugin=strategy.precision_plugin,
        strategy=strategy,
        estimated_stepping_batches=1000,  # any number: the schedule takes no memory
    )
    module.configure_model()


def _inputs(module: LaidModule, setting: Setting, with_answer: bool) -> ModelInputs:
    config = module.student.family.config
    if setting.packed and with_answer:
        return packed_inputs(config, setting.packed, setting.grid)
    return haystack_inputs(config, setting.images, setting.grid, setting.batch, with_answer)


def _tracker(module: LaidModule) -> MemoryTracker:
    given = filter(None, (module.student_args, module.teacher_args))
    return MemoryTracker(frozenset(load_config(args).text_config.vocab_size for args in given))


@contextmanager
def _ranks(devices: int | None) -> Iterator[DeviceMesh | None]:
    """A mesh of ranks of which only this one exists; nothing is sent."""
    if devices is None:
        yield None
        return
    assert not dist.is_initialized()
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=devices)
    try:
        names = ("data_parallel", "tensor_parallel")
        yield init_device_mesh("cpu", (devices, 1), mesh_dim_names=names)
    finally:
        dist.destroy_process_group()
