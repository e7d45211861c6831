"""Mixing weights: each student head's mixture of the teacher's heads (paper, Eq. 3).

Shape suffixes: B batch, L tokens, S student heads, T teacher heads, D head_dim, F = D / 2
rotary pairs, of which pair f is the dimensions f and f + F.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from laid.common.errors import UserError
from laid.distributed.sharded_tensors import full_tensor, set_full_tensor
from laid.losses.term import Matrix


@dataclass
class MixingArgs:
    """Mixing weights, w in Eq. 3."""

    weights: Literal["real", "complex"] = "real"
    """real: one number for each student and teacher head, as in Eq. 3, which mixes heads but
    cannot rotate anything inside one. complex (ours): one complex number for each student head,
    teacher head and rotary pair; it rotates and scales the pair, which commutes with RoPE, so
    teacher and student need not share a basis of queries and keys."""
    normalisation: Literal["softmax", "none"] = "softmax"
    """softmax: the weights of a student head are positive and sum to 1, as the paper's "w = 0.4"
    reads. none: free weights, whose loss has a trivial minimum at w = 0 and Q = 0. Complex weights
    have no softmax."""
    initial: Literal["uniform", "one-hot", "least-squares"] = "one-hot"
    """uniform: every teacher head alike. one-hot: student head i starts from the teacher head at
    the same relative place (with softmax, at a share of `one_hot_share`). least-squares: what fits
    the untrained student best on the term's `calibration` training entries."""
    one_hot_share: float = 0.9
    """The share that one-hot begins with under softmax, between 1 / teacher heads and 1."""
    keys: Literal["own", "shared"] = "own"
    """own: keys have a matrix of their own over key heads. shared: keys are repeated to the query
    heads, as grouped-query attention does, and mixed with the queries' matrix."""

    def __post_init__(self) -> None:
        if self.weights == "complex" and self.normalisation == "softmax":
            raise UserError(
                "mixing.weights complex has no softmax: set mixing.normalisation none with it"
            )
        if self.initial == "least-squares" and self.keys == "shared":
            raise UserError(
                "mixing.initial least-squares fits queries and keys each by itself: set "
                "mixing.keys own with it"
            )


class HeadMixing(nn.Module):
    """One matrix of mixing weights ``w_ST``, or ``w_STF`` if they are complex."""

    def __init__(self, S: int, T: int, head_dim: int, args: MixingArgs):
        super().__init__()
        self.normalised = args.normalisation == "softmax"
        self.is_complex = args.weights == "complex"
        start = _initial(S, T, args)
        if self.is_complex:
            start_STF = start[..., None].expand(-1, -1, head_dim // 2)
            start = torch.view_as_real(torch.complex(start_STF, torch.zeros_like(start_STF)))
        self.raw = nn.Parameter(start.contiguous())

    def weights(self) -> Tensor:
        """``w_ST`` as Eq. 3 uses it (rows sum to 1 under softmax), or complex ``w_STF``."""
        raw = full_tensor(self.raw)
        if self.is_complex:
            return torch.view_as_complex(raw)
        return raw.softmax(-1) if self.normalised else raw

    def forward(self) -> Tensor:
        """``weights``, for a loss.

        Sharded training gathers them here; the clone is for its backward hook, which a returned
        view would lose.
        """
        return self.weights().clone()

    def magnitudes(self) -> Tensor:
        """``w_ST`` for a figure, detached; of complex weights the mean magnitude over pairs."""
        w = self.weights().detach()
        return w.abs().mean(-1) if w.is_complex() else w

    @torch.no_grad()
    def set_weights(self, w: Tensor) -> None:
        """Begins from ``w_ST`` or ``w_STF``; under softmax from the nearest it can be: negative
        shares become a small one, and rows are scaled to sum to 1."""
        if self.is_complex:
            w = torch.view_as_real(w)
        elif self.normalised:
            w_ST = w.clamp(min=1e-3)
            w = (w_ST / w_ST.sum(-1, keepdim=True)).log()
        set_full_tensor(self.raw, w.contiguous())


def mixture(w: Tensor, x_BLTD: Tensor) -> Tensor:
    """The mixture ``sum_j w_ij x_j`` of the teacher's heads, [B, L, S, D], in float32.

    Args:
        w: ``w_ST``, or complex ``w_STF``.
    """
    if w.is_complex():
        mixed_BLSF = torch.einsum("stf,bltf->blsf", w, as_pairs(x_BLTD))
        return torch.cat([mixed_BLSF.real, mixed_BLSF.imag], dim=-1)
    return torch.einsum("st,bltd->blsd", w, x_BLTD.float())


class Mixings(nn.ModuleList):
    """One ``HeadMixing`` for each layer pair."""

    def __iter__(self) -> Iterator[HeadMixing]:
        return super().__iter__()  # type: ignore[return-value]

    def drawn(self, name: str, title: str) -> dict[str, Matrix]:
        """What a term draws of them, as ``Term.matrices`` returns it."""
        return {
            f"{name}{i}": Matrix(f"{title}, pair {i}", m.magnitudes()) for i, m in enumerate(self)
        }


class LeastSquares:
    """Gathers batches for the minimum over w of ``sum |x_s,i - sum_j w_ij x_t,j|^2``.

    Real weights: one problem over all tokens and dimensions of a head. Complex ones: one a rotary
    pair. Only the normal equations are kept, whose size does not grow with the batches.
    """

    def __init__(self, is_complex: bool, ridge: float = 1e-3):
        """``ridge`` times the diagonal's mean is added to it, for heads that are alike."""
        self.is_complex = is_complex
        self.ridge = ridge
        self._gram: Tensor | float = 0.0
        self._cross: Tensor | float = 0.0

    @torch.no_grad()
    def add(self, x_BLSD: Tensor, x_BLTD: Tensor, mask_BL: Tensor) -> None:
        """One batch: the student's and the teacher's queries (or keys); padding does not count."""
        student, teacher = x_BLSD[mask_BL.bool()], x_BLTD[mask_BL.bool()]
        if self.is_complex:
            student, teacher = as_pairs(student), as_pairs(teacher)
            self._gram += torch.einsum("nuf,ntf->fut", teacher.conj(), teacher)
            self._cross += torch.einsum("ntf,nsf->fts", teacher.conj(), student)
        else:
            student, teacher = student.double(), teacher.double()
            self._gram += torch.einsum("nud,ntd->ut", teacher, teacher)[None]
            self._cross += torch.einsum("ntd,nsd->ts", teacher, student)[None]

    def solution(self) -> Tensor:
        """``w_ST``, or complex ``w_STF``, of the smallest error over all batches."""
        assert isinstance(self._gram, Tensor)
        diagonal = self._gram.diagonal(dim1=-2, dim2=-1).real.mean(-1)
        eye = torch.eye(self._gram.shape[-1], dtype=self._gram.dtype, device=self._gram.device)
        damped = self._gram + self.ridge * diagonal[:, None, None] * eye
        w = torch.linalg.solve(damped, self._cross).permute(2, 1, 0)
        return w if self.is_complex else w[..., 0].float()


def as_pairs(x_BLHD: Tensor) -> Tensor:
    """Dimensions f and f + D/2 as one complex number, which RoPE multiplies by e^(i m w_f)."""
    return torch.complex(*x_BLHD.float().chunk(2, dim=-1))


def _initial(student_heads: int, teacher_heads: int, args: MixingArgs) -> Tensor:
    softmax = args.normalisation == "softmax"
    if args.initial == "uniform":
        fill = 0.0 if softmax else 1.0 / teacher_heads
        return torch.full((student_heads, teacher_heads), fill)
    place = [i * teacher_heads // student_heads for i in range(student_heads)]
    hot_ST = torch.nn.functional.one_hot(torch.tensor(place), teacher_heads).float()
    if not softmax or teacher_heads == 1:
        return hot_ST
    share = args.one_hot_share
    if not 1.0 / teacher_heads <= share < 1.0:
        raise UserError(
            f"one_hot_share {share}: expected at least 1/{teacher_heads} (the share of each of "
            f"{teacher_heads} teacher heads) and below 1"
        )
    # softmax([a, 0, ..., 0])[0] = share
    return hot_ST * math.log(share * (teacher_heads - 1) / (1.0 - share))
