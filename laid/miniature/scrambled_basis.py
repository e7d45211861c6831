"""The same model in another basis of queries and keys, for experiments on alignment.

Shape suffixes: K KV heads, H heads, F rotary pairs.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from laid.vlm.families.registry import family_of


@torch.no_grad()
def scramble_qk(hf: PreTrainedModel, seed: int) -> None:
    """Turns and stretches every rotary pair of every KV head, and its queries to match.

    A key's pair becomes ``c k`` and the pair of each query head that looks at it ``q / conj(c)``,
    so ``Re(q conj(k))`` is what it was: an exact re-parametrisation, since multiplying a pair by a
    complex number commutes with RoPE. Phases are uniform, stretches between 1/2 and 2. For
    families whose queries and keys come from biased projections, without norms.
    """
    generator = torch.Generator().manual_seed(seed)
    family = family_of(hf.config)
    shape = family.shape
    pairs = (shape.kv_heads, shape.head_dim // 2)
    group = shape.heads // shape.kv_heads
    for layer in family.layers(hf):
        phase_KF = torch.rand(pairs, generator=generator) * 2 * torch.pi
        c_KF = torch.polar(2 ** (2 * torch.rand(pairs, generator=generator) - 1), phase_KF)
        queries, keys = family.qk_modules(layer)
        for projection, factor in (
            (keys, c_KF),
            (queries, (1 / c_KF.conj()).repeat_interleave(group, dim=0)),
        ):
            for parameter in map(projection.get_parameter, ("weight", "bias")):
                parameter.copy_(_times(parameter, factor))


def _times(rows: Tensor, factor_HF: Tensor) -> Tensor:
    """Multiplies the pairs of a projection's output rows, which are heads x (F real, F imaginary)
    values, by a complex number each."""
    heads, half = factor_HF.shape
    real, imaginary = rows.double().reshape(heads, 2, half, -1).unbind(1)
    product = torch.complex(real, imaginary) * factor_HF[..., None]
    return torch.stack([product.real, product.imag], dim=1).reshape(rows.shape).to(rows.dtype)
