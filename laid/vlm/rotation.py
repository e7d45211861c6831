"""RoPE of a model whose weights are not there."""

import torch
from torch import Tensor

from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import ModelArgs, empty_model


class Rotation:
    """What ``VLM.turn`` does, from a model's configuration alone.

    Attributes:
        family: of the model.
    """

    def __init__(self, args: ModelArgs):
        """Raises:
        UserError: as ``laid.vlm.model_loading.load_config``.
        """
        self._hf = empty_model(args)
        self.family = family_of(self._hf.config)
        self._rotary = self.family.decoder(self._hf).rotary_emb
        self._rotary.to_empty(device="cpu")
        self._hf._init_weights(self._rotary)  # computes the frequencies

    def to(self, device: torch.device) -> None:
        """Goes to a device."""
        self._rotary.to(device)

    def turn(self, x_BLHD: Tensor, positions_3BL: Tensor, layer: int = 0) -> Tensor:
        """As ``laid.signals.model_signals.Turn``."""
        return self.family.rotate(self._hf, x_BLHD, positions_3BL, layer)
