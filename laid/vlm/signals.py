"""What teacher and student are compared by, and where a teacher's comes from.

Shape suffixes: N answer tokens of the whole batch, V vocabulary; others as in
``laid/vlm/capture.py``.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laid.vlm.capture import QK
from laid.vlm.inputs import ModelInputs

if TYPE_CHECKING:
    from laid.vlm.model import VLM


@dataclass
class Signals:
    """What one model says of a batch.

    Attributes:
        qk: queries and keys by decoder layer.
        logits_NV: logits that predict the N answer tokens, row by row of the batch; None when
            nothing asked for them.
    """

    qk: dict[int, QK]
    logits_NV: Tensor | None


@dataclass(frozen=True)
class Wanted:
    """What the objective asks of a model: the decoder layers of Q and K, and whether logits."""

    layers: tuple[int, ...] = ()
    logits: bool = False

    def __bool__(self) -> bool:
        return bool(self.layers) or self.logits


class TeacherSource(ABC):
    """Where the teacher's signals come from. Whoever asks does not care: a model, or a disk."""

    @property
    @abstractmethod
    def layers(self) -> int:
        """Decoder layers that the teacher has."""

    @abstractmethod
    def lacks(self, wanted: Wanted) -> str | None:
        """Why ``wanted`` can't be had here, in words; None when it can.

        Asked once, before training, so that a mismatch fails at the start.
        """

    @abstractmethod
    def to(self, device: torch.device) -> None:
        """Goes to the device that batches will be on."""

    @abstractmethod
    def learn(
        self, names: list[str], pixel_values_PC: Tensor, grid_I3: Tensor, limit_gib: float
    ) -> None:
        """Sees images beforehand, after which batches may come without their pixels."""

    @abstractmethod
    def signals(self, inputs: ModelInputs, wanted: Wanted) -> Signals:
        """The teacher's signals of a batch, without gradient, on the batch's device."""


class OnlineTeacher(TeacherSource):
    """A frozen model that runs beside the student.

    Not a ``nn.Module``: a module that holds it has it in no state_dict, no optimizer, no
    ``train()``.
    """

    def __init__(self, vlm: "VLM"):
        self.vlm = vlm.requires_grad_(False).eval()

    @property
    def layers(self) -> int:
        return self.vlm.shape.layers

    def lacks(self, wanted: Wanted) -> str | None:
        last = self.layers - 1
        beyond = [layer for layer in wanted.layers if not 0 <= layer <= last]
        if beyond:
            return f"teacher layers {beyond}: it has 0 to {last}"
        return None

    def to(self, device: torch.device) -> None:
        self.vlm.to(device)

    def learn(
        self, names: list[str], pixel_values_PC: Tensor, grid_I3: Tensor, limit_gib: float
    ) -> None:
        self.vlm.learn(names, pixel_values_PC, grid_I3, limit_gib)

    @torch.no_grad()
    def signals(self, inputs: ModelInputs, wanted: Wanted) -> Signals:
        return self.vlm.signals(inputs, wanted)
