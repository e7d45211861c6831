"""How queries, keys and logits are stored: as the teacher computes them, or in fewer bits.

Shape suffixes: L tokens of one entry, H heads, D head_dim.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

StoredAs = Literal["teacher", "bfloat16", "int8"]
"""teacher: in its own dtype, exactly. bfloat16: rounded to it. int8: queries and keys in 255 steps,
with a scale for each token and head; logits in the teacher's dtype."""

_STEPS = 127


def packed(name: str, x_LHD: Tensor, stored_as: str) -> dict[str, Tensor]:
    """What is stored of queries or keys, by name. In int8 a number is off by at most half a step,
    1/254 of the largest of its token and head."""
    if stored_as == "bfloat16":
        return {name: x_LHD.to(torch.bfloat16)}
    if stored_as == "teacher":
        return {name: x_LHD}
    x_LHD = x_LHD.float()
    scale_LH1 = x_LHD.abs().amax(-1, keepdim=True) / _STEPS
    steps_LHD = (x_LHD / scale_LH1.clamp(min=torch.finfo(torch.float32).tiny)).round()
    return {name: steps_LHD.to(torch.int8), f"{name}.scale": scale_LH1[..., 0]}


def unpacked(stored: Callable[[str], Tensor], name: str, stored_as: str) -> Tensor:
    """``x_LHD`` of what ``packed`` made; int8 comes back in float32."""
    if stored_as != "int8":
        return stored(name)
    return stored(name).float() * stored(f"{name}.scale")[..., None]


def bytes_of_number(stored_as: str, teachers: int, head_dim: int) -> float:
    """Of queries and keys; ``teachers``: bytes of a number that the teacher computes."""
    return {"teacher": teachers, "bfloat16": 2, "int8": 1 + 4 / head_dim}[stored_as]
