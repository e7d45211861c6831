"""What a teacher is whose signals come from elsewhere than its weights."""

import torch
from torch import Tensor

from laid.signals.model_signals import AttentionShape
from laid.signals.teacher_source import TeacherSource
from laid.vlm.families.family import Config
from laid.vlm.model_loading import ModelArgs
from laid.vlm.rotation import Rotation


class WeightlessTeacher(TeacherSource):
    """A teacher of which only the configuration is there: it can turn queries and keys."""

    def __init__(self, args: ModelArgs):
        self._rotation = Rotation(args)

    @property
    def config(self) -> Config:
        """The teacher's configuration."""
        return self._rotation.family.config

    @property
    def shape(self) -> AttentionShape:
        """The teacher's attention."""
        return self._rotation.family.shape

    @property
    def layers(self) -> int:
        return self.shape.layers

    @property
    def any_input(self) -> bool:
        return False

    def turn(self, x_BLHD: Tensor, positions_3BL: Tensor, layer: int = 0) -> Tensor:
        return self._rotation.turn(x_BLHD, positions_3BL, layer)

    def to(self, device: torch.device) -> None:
        self._rotation.to(device)
