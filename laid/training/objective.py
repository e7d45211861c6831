"""Eq. 8: the weighted sum of the terms, of which only those with a weight are computed."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from laid.common.errors import UserError
from laid.losses.alignment import AlignmentArgs, alignment_loss
from laid.losses.attention_rows import Turn, attention_loss, question_rows, row_logits
from laid.losses.divergence import kl_loss, sft_loss
from laid.losses.head_mixing import MixingWeights
from laid.signals.model_inputs import ModelInputs, answer_labels, answer_positions
from laid.signals.model_signals import Signals, Wanted


@dataclass
class ObjectiveArgs:
    """Weights of the terms (Eq. 8); a term of weight 0 is not computed."""

    laid: float = 1.0
    """lambda_LAid, of the head-level alignment."""
    attn: float = 0.0
    """lambda_attn, of the attention rows' divergence from a mixture of the teacher's, in the layers
    that `alignment` names. Ours; it has not helped yet (docs/experiments.md)."""
    kl: float = 0.3
    """lambda_KL, of the divergence from the teacher's answer: the paper's alpha."""
    sft: float = 0.7
    """lambda_SFT, of the cross-entropy with the right answer: 1 - alpha."""
    temperature: float = 2.0
    """tau of the divergence; the paper does not give it."""
    alignment: AlignmentArgs = field(default_factory=AlignmentArgs)
    """Which layers are aligned, and how the error is reduced."""

    @property
    def weights(self) -> dict[str, float]:
        """Each term's weight by its name."""
        return {"laid": self.laid, "attn": self.attn, "kl": self.kl, "sft": self.sft}

    def __post_init__(self) -> None:
        weights = self.weights
        negative = [f"{name} {value}" for name, value in weights.items() if value < 0]
        if negative:
            raise UserError(f"objective: {', '.join(negative)}: expected weights of 0 or more")
        if not any(weights.values()):
            raise UserError("objective: all weights are 0, so there is nothing to train on")
        if self.temperature <= 0:
            raise UserError(f"objective.temperature {self.temperature}: expected more than 0")

    @property
    def needs_teacher(self) -> bool:
        """Whether any term compares the student with a teacher."""
        return self.compares_layers or self.kl > 0

    @property
    def compares_layers(self) -> bool:
        """Whether any term compares layer pairs, and so needs mixing weights."""
        return self.laid > 0 or self.attn > 0


class Objective:
    """The terms of Eq. 8 for a student, given what teacher and student say of a batch."""

    def __init__(
        self,
        args: ObjectiveArgs,
        pairs: list[tuple[int, int]],
        vocabulary: int,
        rotary: Turn | None = None,
    ):
        """
        Args:
            pairs: (student layer, teacher layer) pairs to align.
            vocabulary: ids of the tokenizer, to which the divergence is cut.
            rotary: the rotation of both models, for attention rows.
        """
        self.args = args
        self.pairs = pairs if args.compares_layers else []
        self.vocabulary = vocabulary
        self.rotary = rotary
        self.weights = {name: weight for name, weight in args.weights.items() if weight > 0}

    @property
    def of_student(self) -> Wanted:
        """What it asks of the student. The logits always: sharded training hooks the model's
        output, and a loss without it would never reach the parameters."""
        return Wanted(layers=tuple(s for s, _ in self.pairs), logits=True)

    @property
    def of_teacher(self) -> Wanted:
        """What it asks of the teacher; nothing for plain fine-tuning."""
        return Wanted(layers=tuple({t: 0 for _, t in self.pairs}), logits=self.args.kl > 0)

    def terms(
        self,
        student: Signals,
        teacher: Signals | None,
        inputs: ModelInputs,
        mixing: MixingWeights | None,
    ) -> dict[str, Tensor]:
        """Every term that has a weight, unweighted, by name."""
        assert student.logits_NV is not None
        rows_N, _ = answer_positions(inputs.labels_BL)
        batch = len(inputs.labels_BL)
        terms: dict[str, Tensor] = {}
        if "laid" in self.weights:
            assert teacher is not None
            assert mixing is not None
            terms["laid"] = self._alignment(student, teacher, inputs, mixing)
        if "attn" in self.weights:
            assert teacher is not None
            assert mixing is not None
            terms["attn"] = self._attention(student, teacher, inputs, mixing)
        if "kl" in self.weights:
            assert teacher is not None
            assert teacher.logits_NV is not None
            terms["kl"] = kl_loss(
                student.logits_NV,
                teacher.logits_NV,
                rows_N,
                batch,
                temperature=self.args.temperature,
                vocabulary=self.vocabulary,
            )
        if "sft" in self.weights:
            labels_N = answer_labels(inputs.labels_BL)
            terms["sft"] = sft_loss(student.logits_NV, labels_N, rows_N, batch)
        return terms

    def total(self, terms: dict[str, Tensor], student: Signals) -> Tensor:
        """The weighted sum, tied to the logits even when no term uses them."""
        assert student.logits_NV is not None
        anchor = 0.0 * student.logits_NV.float().sum()
        return sum((self.weights[name] * value for name, value in terms.items()), anchor)

    def _alignment(
        self, student: Signals, teacher: Signals, inputs: ModelInputs, mixing: MixingWeights
    ) -> Tensor:
        args, mask_BL = self.args.alignment, inputs.attention_mask_BL
        total = None
        for pair, (s, t) in enumerate(self.pairs):
            own, other = student.qk[s], teacher.qk[t]
            mixed_q, mixed_k = mixing.queries(pair, other.q), mixing.keys(pair, other.k)
            loss = alignment_loss(own.q, mixed_q, other.q, mask_BL, args) + alignment_loss(
                mixing.student_keys(own.k), mixed_k, other.k, mask_BL, args
            )
            total = loss if total is None else total + loss
        assert total is not None
        return total / len(self.pairs) if args.reduction == "mean" else total

    def _attention(
        self, student: Signals, teacher: Signals, inputs: ModelInputs, mixing: MixingWeights
    ) -> Tensor:
        assert self.rotary is not None
        rows = question_rows(
            inputs.attention_mask_BL,
            inputs.mm_token_type_ids_BL,
            inputs.position_ids_3BL,
        )
        # Several student layers may have one teacher layer.
        theirs_BTRL = {t: row_logits(x.q, x.k, rows, self.rotary) for t, x in teacher.qk.items()}
        losses = []
        for pair, (s, t) in enumerate(self.pairs):
            own = student.qk[s]
            losses.append(
                attention_loss(
                    row_logits(own.q, own.k, rows, self.rotary),
                    theirs_BTRL[t],
                    mixing.rows[pair](),
                    rows,
                )
            )
        return torch.stack(losses).mean()
