"""Mixing weights: each student head's mixture of the teacher's heads (paper, Eq. 3).

Shape suffixes: B batch, L tokens, S student heads, T teacher heads, D numbers in a head.
"""

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn


@dataclass
class MixingArgs:
    """Mixing weights, w in Eq. 3."""

    normalisation: Literal["softmax", "none"] = "softmax"
    """softmax: the weights of a student head are positive and sum to 1, as the paper's "w = 0.4"
    reads. none: free weights, whose loss has a trivial minimum at w = 0 and Q = 0."""
    initial: Literal["uniform", "one-hot"] = "one-hot"
    """uniform: every teacher head alike. one-hot: student head i starts from the teacher head at
    the same relative place (with softmax, at a share of `one_hot_share`)."""
    one_hot_share: float = 0.9
    """The share that one-hot begins with under softmax, between 1 / teacher heads and 1."""
    keys: Literal["own", "shared"] = "own"
    """own: keys have a matrix of their own over key heads. shared: keys are repeated to the query
    heads, as grouped-query attention does, and mixed with the queries' matrix."""


class HeadMixing(nn.Module):
    """One matrix of mixing weights ``w_ST``."""

    def __init__(self, student_heads: int, teacher_heads: int, args: MixingArgs):
        super().__init__()
        self.normalised = args.normalisation == "softmax"
        self.logits_or_weights = nn.Parameter(_initial(student_heads, teacher_heads, args))

    def weights(self) -> Tensor:
        """``w_ST`` as Eq. 3 uses it; rows sum to 1 under softmax."""
        w_ST = self.logits_or_weights
        return w_ST.softmax(-1) if self.normalised else w_ST

    def forward(self, x_BLTD: Tensor) -> Tensor:
        """The mixture ``sum_j w_ij x_j`` of the teacher's heads, [B, L, S, D], in float32.

        The clone is for sharded training, whose backward hook a returned view would lose.
        """
        return torch.einsum("st,bltd->blsd", self.weights(), x_BLTD.float()).clone()


class MixingWeights(nn.Module):
    """Mixing weights for the queries and keys of every layer pair."""

    def __init__(
        self,
        pairs: int,
        student_heads: tuple[int, int],
        teacher_heads: tuple[int, int],
        args: MixingArgs,
    ):
        """
        Args:
            pairs: how many (student layer, teacher layer) pairs there are.
            student_heads: its query heads and its key heads.
            teacher_heads: likewise.
        """
        super().__init__()
        self.repeat = (
            (student_heads[0] // student_heads[1], teacher_heads[0] // teacher_heads[1])
            if args.keys == "shared"
            else None
        )

        def matrices(which: int) -> nn.ModuleList:
            heads = student_heads[which], teacher_heads[which]
            return nn.ModuleList(HeadMixing(*heads, args) for _ in range(pairs))

        self.q = matrices(0)
        self.k = self.q if self.repeat else matrices(1)

    def queries(self, pair: int, q_BLTD: Tensor) -> Tensor:
        """Mixed teacher queries [B, L, S, D] of one layer pair."""
        return self.q[pair](q_BLTD)

    def keys(self, pair: int, k_BLTD: Tensor) -> Tensor:
        """Mixed teacher keys [B, L, S, D]; under ``keys: shared`` S is the query heads."""
        if self.repeat:
            k_BLTD = k_BLTD.repeat_interleave(self.repeat[1], dim=2)
        return self.k[pair](k_BLTD)

    def student_keys(self, k_BLSD: Tensor) -> Tensor:
        """The student's keys in the heads that ``keys`` returns."""
        return k_BLSD.repeat_interleave(self.repeat[0], dim=2) if self.repeat else k_BLSD

    def matrices(self) -> dict[str, Tensor]:
        """Every ``w_ST`` by name (``q0``, ``k0``, ...), detached, for figures."""
        named = {f"q{i}": m for i, m in enumerate(self.q)}
        if not self.repeat:
            named |= {f"k{i}": m for i, m in enumerate(self.k)}
        return {name: cast(HeadMixing, m).weights().detach() for name, m in named.items()}


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
        raise ValueError(
            f"one_hot_share {share}: expected at least 1/{teacher_heads} (the share of each of "
            f"{teacher_heads} teacher heads) and below 1"
        )
    # softmax([a, 0, ..., 0])[0] = share
    return hot_ST * math.log(share * (teacher_heads - 1) / (1.0 - share))
