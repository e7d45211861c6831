"""What a vision tower and its projector give the decoder.

Shape suffixes as in ``laid/vlm/families/family.py``.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class VisionFeatures:
    """What the decoder takes of one image."""

    tokens_VE: Tensor  # in place of the image's tokens
    more_VE: tuple[Tensor, ...] = ()  # what some add in later layers (DeepStack: one a layer)

    @property
    def bytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in (self.tokens_VE, *self.more_VE))

    def clone(self) -> "VisionFeatures":
        return VisionFeatures(self.tokens_VE.clone(), tuple(x.clone() for x in self.more_VE))
