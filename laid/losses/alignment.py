"""Head-level alignment: Eq. 3 and 7 of the paper, with masks and mixing weights.

Shape suffixes: B batch, L tokens, S student heads, T teacher heads, D head_dim.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import ClassVar, Literal

import torch
from torch import Tensor

from laid.losses.head_mixing import HeadMixing, LeastSquares, MixingArgs, Mixings, mixture
from laid.losses.layer_pairs import LayerPairTerm, Layers
from laid.losses.reduction import mean_by_entry
from laid.losses.term import CalibrationData, Matrix, ModelPair, TermArgs
from laid.losses.token_parts import by_part, part_length
from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import Signals
from laid.signals.token_choice import tokens_named

Mix = Callable[[Tensor], Tensor]
"""From the teacher's heads ``x_BLTD`` to their mixtures [B, L, S, D], in float32."""


@dataclass
class AlignmentArgs(TermArgs):
    """Head-level alignment of queries and keys, L_LAid (Eq. 7)."""

    name: ClassVar[str] = "laid"
    compares_heads: ClassVar[bool] = True

    weight: float = 1.0
    """lambda_LAid in Eq. 8; at 0 the term is not built."""
    layers: Layers = "final"
    """Which student layer is aligned with which teacher layer. final: the last with the last, as
    in the paper (27 of 7B or 35 of 3B with 63 of 32B). all: each student layer with the teacher
    layer at the same relative depth. matched: each student layer with the teacher layer whose
    attention rows it resembles most on `calibration` training entries. Or a list of pairs:
    [[27, 63], [13, 31]]."""
    reduction: Literal["mean", "sum"] = "mean"
    """mean over tokens, heads and head_dim, and over layer pairs; or the sum of Eq. 7."""
    normalise: bool = True
    """Divide each error by the teacher's mean square, so that the weight of the loss means the
    same for models of every size. Only with reduction mean."""
    tokens: str = "all"
    """Tokens at which queries and keys are compared. all: every one, as in Eq. 7. sample:N: N of
    each entry, drawn from its id, the same in every epoch. question: those after the last image,
    none of an entry without images. A cache of the teacher holds no others for this term."""
    mixing: MixingArgs = field(default_factory=MixingArgs)
    """The mixing weights of Eq. 3."""
    calibration: int = 32
    """Training entries that layers matched and mixing.initial least-squares are fitted to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        tokens_named(self.tokens, "objective.laid.tokens")

    @property
    def needs_images(self) -> bool:
        return self.layers == "matched"

    def build(self, models: ModelPair) -> "Alignment":
        return Alignment(self, models)


class Alignment(LayerPairTerm):
    """Squared distance of each student head's queries and keys from a learned mixture of the
    teacher's heads, in pairs of layers."""

    def __init__(self, args: AlignmentArgs, models: ModelPair):
        """Mixing weights for the queries and for the keys of every layer pair.

        Raises:
            UserError: as ``layer_pairs``.
        """
        super().__init__(args.layers, models, "objective.laid.layers")
        assert models.teacher is not None
        ours, theirs = models.student, models.teacher
        self.args = args
        self.queries = self.keys = tokens_named(args.tokens, "objective.laid.tokens")
        self.is_fit = args.mixing.initial == "least-squares"
        self.calibration_entries = args.calibration if self.is_matched or self.is_fit else 0
        shared = args.mixing.keys == "shared"
        self.repeat = (
            (ours.heads // ours.kv_heads, theirs.heads // theirs.kv_heads) if shared else None
        )

        def mixings(s: int, t: int) -> Mixings:
            return Mixings(HeadMixing(s, t, ours.head_dim, args.mixing) for _ in self.pairs)

        self.q = mixings(ours.heads, theirs.heads)
        self.k = self.q if shared else mixings(ours.kv_heads, theirs.kv_heads)

    def forward(self, student: Signals, teacher: Signals | None, inputs: ModelInputs) -> Tensor:
        assert teacher is not None
        args, mask_BL, columns_BR = self.args, inputs.attention_mask_BL, None
        if not self.queries.every:
            columns_BR, mask_BL = self.queries.columns(inputs)
        losses = []
        for (s, t), q, k in zip(self.pairs, self.q, self.k, strict=True):
            own, other = student.qk[s], teacher.qk[t]
            if columns_BR is not None:  # L is then the chosen tokens
                own, other = own.at(columns_BR), other.at(columns_BR)
            own_k_BLSD = own.k
            mix_q, mix_k = partial(mixture, q()), partial(mixture, k())
            if self.repeat:  # S and T are then those of the queries
                own_k_BLSD = own.k.repeat_interleave(self.repeat[0], dim=2)
                mix_k = partial(_repeated_mixture, mix_k, self.repeat[1])
            q_loss = alignment_loss(own.q, mix_q, other.q, mask_BL, args)
            k_loss = alignment_loss(own_k_BLSD, mix_k, other.k, mask_BL, args)
            losses.append(q_loss + k_loss)
        total = reduce(torch.add, losses)
        return total / len(self.pairs) if args.reduction == "mean" else total

    def calibrate(self, data: CalibrationData) -> str | None:
        """Pairs layers (``matched``), then fits the mixing weights (``least-squares``)."""
        found = super().calibrate(data)
        if not self.is_fit:
            return found
        is_complex = self.args.mixing.weights == "complex"
        queries, keys = ([LeastSquares(is_complex) for _ in self.pairs] for _ in "qk")
        for inputs, student, teacher in data.signals(self.of_student, self.of_teacher):
            mask_BL = self.queries.mask(inputs)
            for (s, t), q, k in zip(self.pairs, queries, keys, strict=True):
                q.add(student.qk[s].q, teacher.qk[t].q, mask_BL)
                k.add(student.qk[s].k, teacher.qk[t].k, mask_BL)
        for problem, mixing in zip([*queries, *keys], [*self.q, *self.k], strict=True):
            mixing.set_weights(problem.solution())
        return found

    def matrices(self) -> dict[str, Matrix]:
        return self.q.drawn("q", "queries") | ({} if self.repeat else self.k.drawn("k", "keys"))


def _repeated_mixture(mix: Mix, repeat: int, k_BLTD: Tensor) -> Tensor:
    return mix(k_BLTD.repeat_interleave(repeat, dim=2))


def alignment_loss(
    x_BLSD: Tensor, mix: Mix, raw_BLTD: Tensor, mask_BL: Tensor, args: AlignmentArgs
) -> Tensor:
    """Squared distance of the student's queries (or keys) from the mixed teacher's.

    RoPE, the same rotation on both sides, would not change it (Eq. 5 against Eq. 3).

    Args:
        x_BLSD: the student's.
        mix: gives the mixture [B, L, S, D] of the teacher's heads.
        raw_BLTD: the teacher's own, whose mean square normalises the error.
        mask_BL: 1 for a token, 0 for padding, which never counts.
    """
    by_sum = args.reduction == "sum"

    def error(x_BLSD: Tensor, raw_BLTD: Tensor) -> Tensor:
        error_BLSD = (x_BLSD.float() - mix(raw_BLTD)).square()
        return error_BLSD.sum((2, 3)) if by_sum else error_BLSD.mean((2, 3))

    def power(raw_BLTD: Tensor) -> Tensor:
        return raw_BLTD.detach().float().square().mean((2, 3))

    each = max(x_BLSD[:, :1].numel(), raw_BLTD[:, :1].numel())
    length = part_length(each)
    error_BL = torch.cat(by_part(error, length, x_BLSD, raw_BLTD), dim=1)
    if by_sum:
        return (error_BL * mask_BL).sum(-1).mean()
    if args.normalise:
        power_BL = torch.cat(by_part(power, length, raw_BLTD), dim=1) * mask_BL
        power_B1 = power_BL.sum(-1, keepdim=True) / mask_BL.sum(-1, keepdim=True).clamp(min=1)
        error_BL = error_BL / power_B1.clamp(min=1e-12)
    return mean_by_entry(error_BL, mask_BL)
