"""Writes the tiny teacher in another basis of queries and keys: the same function.

    python benchmarks/scrambled_teacher.py FOLDER

Shape suffixes: K KV heads, H heads of a projection, F rotary pairs of a head.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from laid.vlm.families.registry import family_of
from laid.vlm.hf_folder import write_model, write_processor
from laid.vlm.model_loading import ModelArgs, load_model
from laid.vlm.processor import ProcessorArgs, load_processor


@torch.no_grad()
def scramble_qk(hf: PreTrainedModel, seed: int) -> None:
    """Multiplies every rotary pair of every KV head by a complex number, in place, and its query
    heads by the inverse conjugate.

    A key's pair becomes ``c k`` and that of each of its query heads ``q / conj(c)``, so that
    ``Re(q conj(k))`` is unchanged: an exact reparametrisation, since multiplication by a complex
    number commutes with RoPE. Phases are uniform, magnitudes log-uniform between 1/2 and 2. For
    families whose queries and keys come from projections with biases and without norms.
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
    """Multiplies the pairs of a projection's output rows, which are H x (F real, F imaginary)."""
    heads, half = factor_HF.shape
    real, imaginary = rows.double().reshape(heads, 2, half, -1).unbind(1)
    product = torch.complex(real, imaginary) * factor_HF[..., None]
    return torch.stack([product.real, product.imag], dim=1).reshape(rows.shape).to(rows.dtype)


def main(out: Path) -> None:
    """Scrambles with seed 0."""
    args = ModelArgs("tiny/teacher")
    model = load_model(args)
    scramble_qk(model, seed=0)
    out.mkdir(parents=True, exist_ok=True)
    write_processor(out, load_processor(ProcessorArgs(args.path)))
    write_model(out, args, model.state_dict(), None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
