"""The term that matches the student's attention rows to a mixture of the teacher's heads' rows.

Queries and keys are compared by what they do together, so teacher and student need not share a
basis inside a head, as Eq. 3 has them. The paper names attention matching in its abstract and does
not define it: this is ours, and it has not helped (docs/experiments.md).

Shape suffixes: B batch, R rows of a haystack, L tokens, S student heads, T teacher heads.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from laid.losses.attention_rows import Rows, question_rows, row_logits
from laid.losses.head_mixing import HeadMixing, MixingArgs, Mixings
from laid.losses.layer_pairs import LayerPairTerm, Layers, similarity
from laid.losses.reduction import mean_by_entry
from laid.losses.term import CalibrationData, Matrix, ModelPair, TermArgs
from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import Signals

INITIAL_SHARE = 0.9
"""Initial share of the teacher head whose rows are most similar in a student head's mixture."""


@dataclass
class RowMatchingArgs(TermArgs):
    """Divergence of attention rows from a mixture of the teacher's. Ours; it has not helped."""

    name: ClassVar[str] = "attn"

    weight: float = 0.0
    """lambda_attn; at 0 the term is not built."""
    layers: Layers = "final"
    """Layer pairs, as those of the alignment."""
    calibration: int = 32
    """Training entries that the initial mixtures, and layers matched, are fitted to."""

    def build(self, models: ModelPair) -> "RowMatching":
        return RowMatching(self, models)


class RowMatching(LayerPairTerm):
    """Divergence of each student head's rows from its mixture of the teacher's.

    Mixing weights are real, rows sum to 1, since rows of attention do, and no teacher head is left
    out: else the cheapest mixture would be of heads that attend to no image.
    """

    def __init__(self, args: RowMatchingArgs, models: ModelPair):
        super().__init__(args.layers, models, "objective.attn.layers")
        assert models.teacher is not None
        self.calibration_entries = args.calibration
        heads = models.student.heads, models.teacher.heads, models.student.head_dim
        uniform = MixingArgs(initial="uniform")
        self.rows = Mixings(HeadMixing(*heads, uniform, even=True) for _ in self.pairs)

    def forward(self, student: Signals, teacher: Signals | None, inputs: ModelInputs) -> Tensor:
        """The divergence, meaned over layer pairs."""
        assert teacher is not None
        rows, turn = question_rows(inputs), self.models.turn
        # Several student layers may have one teacher layer.
        theirs_BTRL = {t: row_logits(x, rows, turn) for t, x in teacher.qk.items()}
        losses = [
            row_divergence(row_logits(student.qk[s], rows, turn), theirs_BTRL[t], mixing(), rows)
            for (s, t), mixing in zip(self.pairs, self.rows, strict=True)
        ]
        return torch.stack(losses).mean()

    def calibrate(self, data: CalibrationData) -> str | None:
        """Pairs layers (``matched``), and initialises the mixtures by the most similar heads."""
        found = super().calibrate(data)
        similar, _ = similarity(self.pairs, self.models.turn, data)
        for mixing, pair in zip(self.rows, self.pairs, strict=True):
            similar_ST = similar[pair]
            rest = (1 - INITIAL_SHARE) / max(similar_ST.shape[1] - 1, 1)
            w_ST = torch.full_like(similar_ST, rest)
            mixing.set_weights(w_ST.scatter_(1, similar_ST.argmax(1, keepdim=True), INITIAL_SHARE))
        return found

    def matrices(self) -> dict[str, Matrix]:
        return self.rows.drawn("rows", "attention rows")


def row_divergence(student_BSRL: Tensor, teacher_BTRL: Tensor, w_ST: Tensor, rows: Rows) -> Tensor:
    """Divergence of the student's rows from the mixture ``sum_j w_ij p_j`` of the teacher's.

    Of each row only the part on the images, ``sum_n p log(p / q) - p + q``: the KL divergence of
    measures whose sums may differ. So a row counts in proportion to its attention to images.

    Args:
        student_BSRL, teacher_BTRL: logits.
        w_ST: mixing weights whose rows sum to 1.
    """
    image_B1RL = rows.image_BRL[:, None]
    p_BSRL = torch.einsum("st,btrl->bsrl", w_ST, teacher_BTRL.softmax(-1))
    log_q_BSRL = student_BSRL.log_softmax(-1)
    log_p_BSRL = p_BSRL.clamp(min=1e-12).log()
    each_BSRL = p_BSRL * (log_p_BSRL - log_q_BSRL) - p_BSRL + log_q_BSRL.exp()
    of_row_BSR = (each_BSRL * image_B1RL).sum(-1)
    return mean_by_entry(of_row_BSR.mean(1), rows.valid_BR)
