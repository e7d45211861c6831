"""A teacher that runs beside the student."""

import torch
from torch import Tensor

from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import Signals, Wanted
from laid.signals.teacher_source import TeacherSource
from laid.vlm.vision_language_model import VLM


class OnlineTeacher(TeacherSource):
    """A frozen model that runs beside the student.

    Not a ``nn.Module``: a module that holds it has it in no state_dict, no optimizer, no
    ``train()``.
    """

    def __init__(self, vlm: VLM):
        self.vlm = vlm.requires_grad_(False).eval()

    @property
    def layers(self) -> int:
        return self.vlm.shape.layers

    @property
    def any_input(self) -> bool:
        return True

    def rotate(self, x_BLHD: Tensor, positions_3BL: Tensor, layer: int = 0) -> Tensor:
        return self.vlm.rotate(x_BLHD, positions_3BL, layer)

    def missing(self, wanted: Wanted) -> str | None:
        beyond = [layer for layer in wanted.layers if not 0 <= layer < self.layers]
        return f"teacher layers {beyond}: it has 0 to {self.layers - 1}" if beyond else None

    def to(self, device: torch.device) -> None:
        self.vlm.to(device)

    @property
    def vision(self) -> VLM:
        return self.vlm

    @torch.no_grad()
    def signals(self, inputs: ModelInputs, wanted: Wanted) -> Signals:
        return self.vlm.signals(inputs, wanted)
