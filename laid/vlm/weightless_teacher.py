"""What a teacher is whose signals come from elsewhere than its weights."""

import torch
from torch import Tensor

from laid.signals.model_signals import AttentionShape
from laid.signals.teacher_source import TeacherSource
from laid.vlm.families.family import Config
from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import ModelArgs, empty_model


class WeightlessTeacher(TeacherSource):
    """A teacher of which only the configuration is there: it can rotate queries and keys."""

    def __init__(self, args: ModelArgs):
        """Raises ``UserError`` as ``laid.vlm.model_loading.load_config``."""
        self._hf = empty_model(args)
        self._family = family_of(self._hf.config)
        self._rotary = self._family.decoder(self._hf).rotary_emb
        self._rotary.to_empty(device="cpu")
        self._hf._init_weights(self._rotary)  # computes the frequencies

    @property
    def config(self) -> Config:
        return self._family.config

    @property
    def shape(self) -> AttentionShape:
        return self._family.shape

    @property
    def layers(self) -> int:
        return self.shape.layers

    @property
    def any_input(self) -> bool:
        return False

    def rotate(self, x_BLHD: Tensor, positions_3BL: Tensor, layer: int = 0) -> Tensor:
        return self._family.rotate(self._hf, x_BLHD, positions_3BL, layer)

    def to(self, device: torch.device) -> None:
        self._rotary.to(device)
