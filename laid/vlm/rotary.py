"""M-RoPE, to turn captured queries and keys by positions of one's own choice.

Shape suffixes: B batch, L tokens, H heads, D numbers in a head, F = D / 2 rotary pairs, 3 the
temporal, height and width rows of M-RoPE.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig


@dataclass(frozen=True)
class Rotary:
    """The rotation of a model (paper, Eq. 2; with the sections of Qwen2.5-VL).

    Attributes:
        frequency_F: radians a position, by rotary pair.
        axis_F: the row of M-RoPE's positions that turns the pair.
    """

    frequency_F: Tensor
    axis_F: Tensor

    @classmethod
    def of(cls, config: Qwen2_5_VLConfig) -> "Rotary":
        """Reads it from a configuration; plain M-RoPE, without a window extension."""
        text = config.text_config
        rope = text.rope_parameters
        half = text.hidden_size // text.num_attention_heads // 2
        sections = torch.tensor(rope["mrope_section"])
        axes = torch.arange(len(sections)) % 3
        return cls(
            frequency_F=rope["rope_theta"] ** (-torch.arange(half) / half),
            axis_F=axes.repeat_interleave(sections),
        )

    def to(self, device: torch.device) -> "Rotary":
        """The same there, so that nothing is copied in a step."""
        return Rotary(self.frequency_F.to(device), self.axis_F.to(device))

    def __call__(self, x_BLHD: Tensor, positions_3BL: Tensor) -> Tensor:
        """Queries or keys as attention sees them, in float32."""
        places_BLF = positions_3BL.movedim(0, -1)[..., self.axis_F]
        angle_BL1F = (places_BLF.float() * self.frequency_F).unsqueeze(-2)
        cos, sin = angle_BL1F.cos(), angle_BL1F.sin()
        real, imaginary = x_BLHD.float().chunk(2, dim=-1)
        return torch.cat([real * cos - imaginary * sin, imaginary * cos + real * sin], dim=-1)
