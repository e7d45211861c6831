"""Mixing weights: each student head's mixture of the teacher's heads (paper, Eq. 3).

Shape suffixes: B batch, L tokens, S student heads, T teacher heads, D head_dim, F = D / 2
rotary pairs, of which pair f is the dimensions f and f + F.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from laid.common.errors import UserError
from laid.distributed.sharded_tensors import full_tensor, set_full_tensor

SINKHORN = 20
"""Rounds that make rows and columns even."""


@dataclass
class MixingArgs:
    """Mixing weights, w in Eq. 3."""

    weights: Literal["real", "complex"] = "real"
    """real: one number for each student and teacher head, as in Eq. 3, which mixes heads but
    cannot rotate anything inside one. complex (ours): one complex number for each student head,
    teacher head and rotary pair; it turns and stretches the pair, which commutes with RoPE, so
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

    def __init__(
        self,
        student_heads: int,
        teacher_heads: int,
        head_dim: int,
        args: MixingArgs,
        even: bool = False,
    ):
        """
        Args:
            even: under softmax, let no teacher head be left out: the weights of each sum to the
                student heads there are for one.
        """
        super().__init__()
        self.normalised = args.normalisation == "softmax"
        self.even = even
        self.is_complex = args.weights == "complex"
        start = _initial(student_heads, teacher_heads, args)
        if self.is_complex:
            start_STF = start[..., None].expand(-1, -1, head_dim // 2)
            start = torch.view_as_real(torch.complex(start_STF, torch.zeros_like(start_STF)))
        self.raw = nn.Parameter(start.contiguous())

    def weights(self) -> Tensor:
        """``w_ST`` as Eq. 3 uses it (rows sum to 1 under softmax), or complex ``w_STF``."""
        raw = full_tensor(self.raw)
        if self.is_complex:
            return torch.view_as_complex(raw)
        if self.even:
            return _even(raw)
        return raw.softmax(-1) if self.normalised else raw

    def forward(self, x_BLTD: Tensor | None = None) -> Tensor:
        """The mixture ``sum_j w_ij x_j`` of the teacher's heads, [B, L, S, D], in float32.

        Without ``x_BLTD`` the weights themselves, for a loss that uses them. Sharded training
        gathers them here; the clone is for its backward hook, which a returned view would lose.
        """
        if x_BLTD is None:
            return self.weights().clone()
        if self.is_complex:
            mixed_BLSF = torch.einsum("stf,bltf->blsf", self.weights(), as_pairs(x_BLTD))
            return torch.cat([mixed_BLSF.real, mixed_BLSF.imag], dim=-1)
        return torch.einsum("st,bltd->blsd", self.weights(), x_BLTD.float()).clone()

    def magnitudes(self) -> Tensor:
        """``w_ST`` for a figure, detached; of complex weights the mean magnitude over pairs."""
        w = self.weights().detach()
        return w.abs().mean(-1) if w.is_complex() else w

    @torch.no_grad()
    def set_weights(self, w: Tensor) -> None:
        """Begins from ``w_ST`` or ``w_STF``; under softmax from the nearest it can be: negative
        shares become a small one, and rows are scaled to sum to 1."""
        if self.is_complex:
            set_full_tensor(self.raw, torch.view_as_real(w).contiguous())
        elif self.normalised:
            w_ST = w.clamp(min=1e-3)
            set_full_tensor(self.raw, (w_ST / w_ST.sum(-1, keepdim=True)).log())
        else:
            set_full_tensor(self.raw, w.contiguous())


def _even(raw_ST: Tensor) -> Tensor:
    """Positive weights whose rows sum to 1 and whose columns sum to S / T (Sinkhorn, 1964)."""
    log_ST = raw_ST
    for _ in range(SINKHORN):
        log_ST = (
            log_ST - log_ST.logsumexp(0, keepdim=True) + math.log(raw_ST.shape[0] / raw_ST.shape[1])
        )
        log_ST = log_ST - log_ST.logsumexp(1, keepdim=True)
    return log_ST.exp()


def as_pairs(x_BLHD: Tensor) -> Tensor:
    """A head's numbers f and f + D/2 as one complex number: RoPE multiplies it by e^(i m w_f)."""
    real, imaginary = x_BLHD.float().chunk(2, dim=-1)
    return torch.complex(real, imaginary)


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
