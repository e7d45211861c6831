"""What a loss term is: one class in one file, which owns everything that belongs to it.

docs/extending.md adds one step by step.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

import torch
from torch import Tensor, nn

from laid.common.errors import UserError
from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import AttentionShape, Rotate, Signals, Wanted

Ask = Callable[[ModelInputs, Wanted], Signals]
"""Runs a model on a batch and returns the signals that are wanted of it."""


@dataclass(frozen=True)
class ModelPair:
    """What a term may know of the two models when it is built."""

    student: AttentionShape
    teacher: AttentionShape | None  # None where no term of the objective has a teacher
    vocabulary: int  # ids of the tokenizer, the same on both sides
    rotate: Rotate  # RoPE of the student, for terms that need rotated queries and keys
    teacher_rotate: Rotate  # RoPE of the teacher


@dataclass(frozen=True)
class CalibrationData:
    """Training batches on the student's device, and both models to run on them before training."""

    batches: Sequence[ModelInputs]
    student: Ask
    teacher: Ask

    def signals(
        self, of_student: Wanted, of_teacher: Wanted
    ) -> Iterator[tuple[ModelInputs, Signals, Signals]]:
        """Each batch with the signals of student and teacher."""
        for inputs in self.batches:
            yield inputs, self.student(inputs, of_student), self.teacher(inputs, of_teacher)


@dataclass(frozen=True)
class Matrix:
    """A matrix that is drawn before and after training: student heads down, teacher's across."""

    title: str
    values_ST: Tensor


class Term(nn.Module, ABC):
    """One term of Eq. 8. Its parameters are trained beside the student, and its parameters and
    buffers are in the checkpoint under ``objective.terms.NAME``.

    Parameters belong to submodules that are used by their ``forward``: sharded training gathers
    them there.
    """

    of_teacher: Wanted = Wanted()
    """What it asks of the teacher; nothing where it has none."""
    calibration_entries: int = 0
    """Training entries that ``calibrate`` is given before the first step; 0: it is not called."""
    step: int = 0
    """Optimizer steps before this one."""
    progress: float = 0.0
    """Share of training that is done."""
    fitted: Tensor

    def __init__(self) -> None:
        super().__init__()
        # In the checkpoint, so that a resumed run is not calibrated on the trained student.
        self.register_buffer("fitted", torch.tensor(False))

    @property
    @abstractmethod
    def of_student(self) -> Wanted:
        """What it asks of the student."""

    @abstractmethod
    def forward(self, student: Signals, teacher: Signals | None, inputs: ModelInputs) -> Tensor:
        """The loss of a batch, a scalar, unweighted: a mean within each haystack, then over
        haystacks (``laid.losses.reduction``)."""

    @property
    def ever_of_teacher(self) -> Wanted:
        """What it may ask of the teacher in a run: in its loss, now or after calibration, and in
        calibration."""
        return self.of_teacher

    def calibrate(self, data: CalibrationData) -> str | None:
        """Initialises its state on training batches, without labels; once a run.

        Returns:
            What it found, as a message to the user; None for nothing.
        """
        raise NotImplementedError

    def restored(self) -> None:
        """Called before the first step: buffers may come from a checkpoint since it was built."""

    def matrices(self) -> dict[str, Matrix]:
        """What it draws, by short name; detached. All ranks call it together."""
        return {}


@dataclass
class TermArgs:
    """Settings of one term; a subclass adds its own.

    Not an ABC: with one among its bases, jsonargparse would take a dataclass for a class to choose
    (``class_path``) rather than for settings.
    """

    name: ClassVar[str]
    """The field of ``ObjectiveArgs``, and the name in logs and checkpoints."""
    has_teacher: ClassVar[bool] = True
    """Whether it compares the student with a teacher."""
    compares_heads: ClassVar[bool] = False
    """Whether it compares queries or keys as vectors; head_dim and RoPE must then be the same."""

    weight: float = 0.0
    """Its weight in Eq. 8, 0 or more; at 0 the term is not built."""

    def __post_init__(self) -> None:
        if not (isfinite(self.weight) and self.weight >= 0):
            raise UserError(
                f"objective.{self.name}.weight {self.weight}: expected a finite number, 0 or more"
            )
        entries = getattr(self, "calibration", 1)  # a setting of terms that are calibrated
        if entries < 1:
            raise UserError(
                f"objective.{self.name}.calibration {entries}: expected at least 1 entry"
            )

    @property
    def needs_images(self) -> bool:
        """Whether entries without images say nothing to it, or to its calibration."""
        return False

    @property
    def needs_needles(self) -> bool:
        """Whether each entry with images must say which of them are its needles."""
        return False

    def build(self, models: ModelPair) -> Term:
        """The term for a pair of models.

        Raises:
            UserError: a setting that does not fit the models.
        """
        raise NotImplementedError
