"""Where a teacher's signals come from."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from laid.signals.model_inputs import ModelInputs, ReadAhead
from laid.signals.model_signals import Signals, Wanted


class TeacherSource(ABC):
    """Where the teacher's signals come from. Whoever asks does not care: a model, or a disk."""

    @property
    @abstractmethod
    def layers(self) -> int:
        """Decoder layers that the teacher has."""

    @abstractmethod
    def rotate(self, x_BLHD: Tensor, positions_3BL: Tensor, layer: int = 0) -> Tensor:
        """The teacher's RoPE, as ``laid.signals.model_signals.Rotate``."""

    @abstractmethod
    def missing(self, wanted: Wanted) -> str | None:
        """Why ``wanted`` can't be had here, in words; None when it can.

        Asked once, before training, so that a mismatch fails at the start.
        """

    @property
    @abstractmethod
    def any_input(self) -> bool:
        """Whether it has signals of any batch, rather than of training entries alone."""

    @abstractmethod
    def to(self, device: torch.device) -> None:
        """Goes to the device that batches will be on."""

    @property
    def vision(self) -> Any:
        """The model (``laid.vlm``) whose vision tower sees images; None where none does."""
        return None

    @property
    def ahead(self) -> ReadAhead | None:
        """Reads what is stored of an entry into the page cache; None where nothing is stored."""
        return None

    @abstractmethod
    def signals(self, inputs: ModelInputs, wanted: Wanted) -> Signals:
        """The teacher's signals of a batch, without gradient, on the batch's device."""
