"""KL divergence of the student's answer from the teacher's (Eq. 8).

Shape suffixes: N answer tokens of the whole batch, V vocabulary.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from laid.common.errors import UserError
from laid.losses.reduction import mean_by_row
from laid.losses.term import ModelPair, Term, TermArgs
from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import Signals, Wanted
from laid.signals.top_logits import TopK, TopLogits, log_probabilities, merged


@dataclass
class DivergenceArgs(TermArgs):
    """KL divergence from the teacher on the answer's tokens, L_KL (Eq. 8)."""

    name: ClassVar[str] = "kl"

    weight: float = 0.3
    """lambda_KL in Eq. 8, the paper's alpha; at 0 the term is not built."""
    temperature: float = 2.0
    """tau, for both sides; the paper does not give it."""
    top_k: int | None = None
    """The teacher's most probable ids, of which each counts by itself; all others count as one. A
    lower bound of the divergence, and a cache of the teacher holds no other logits for this term.
    None: all ids."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature < float("inf"):
            raise UserError(
                f"objective.kl.temperature {self.temperature}: expected a finite number above 0"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UserError(
                f"objective.kl.top_k {self.top_k}: expected at least 1, or null for all"
            )

    def build(self, models: ModelPair) -> "Divergence":
        """Raises:
        UserError: there are fewer ids than ``top_k``.
        """
        return Divergence(self, models)


class Divergence(Term):
    """``tau^2 KL(teacher || student)`` over the tokenizer's ids, at the answer's tokens."""

    of_student = Wanted(logits=True)

    def __init__(self, args: DivergenceArgs, models: ModelPair):
        super().__init__()
        self.temperature = args.temperature
        self.vocabulary = models.vocabulary
        self.of_teacher = Wanted(logits=True)
        if args.top_k is not None and args.top_k > self.vocabulary:
            raise UserError(
                f"objective.kl.top_k {args.top_k}: the tokenizer has {self.vocabulary} ids; "
                "expected at most as many, or null for all"
            )
        if args.top_k is not None and args.top_k < self.vocabulary:
            top = TopK(args.top_k, self.temperature, self.vocabulary)
            self.of_teacher = Wanted(top_k=top)

    def forward(self, student: Signals, teacher: Signals | None, inputs: ModelInputs) -> Tensor:
        assert student.logits_NV is not None
        assert teacher is not None
        return kl_loss(
            student.logits_NV,
            teacher.logits_NV if teacher.top is None else teacher.top,
            inputs.answers.rows_N,
            len(inputs.labels_BL),
            temperature=self.temperature,
            vocabulary=self.vocabulary,
        )


def kl_loss(
    student_NV: Tensor,
    teacher: Tensor | TopLogits | None,
    rows_N: Tensor,
    batch: int,
    *,
    temperature: float,
    vocabulary: int,
) -> Tensor:
    """``tau^2 sum_i p_i^t log(p_i^t / p_i^s)``, meaned over answer tokens.

    Args:
        teacher: logits of all ids, or the largest at the same temperature.
        rows_N: the row of the batch that each token belongs to.
        batch: rows in the batch.
        temperature: tau, for both sides.
        vocabulary: ids of the tokenizer. Both sides are cut to them.
    """
    log_s_NV = log_probabilities(student_NV, temperature, vocabulary)
    if isinstance(teacher, TopLogits):
        ours = merged(log_s_NV, teacher.ids_NK)
        kl_N = _divergence(teacher.log_p_NK, ours.log_p_NK)
        kl_N = kl_N + _divergence(teacher.log_rest_N[:, None], ours.log_rest_N[:, None])
    else:
        assert teacher is not None
        kl_N = _divergence(log_probabilities(teacher, temperature, vocabulary), log_s_NV)
    return temperature**2 * mean_by_row(kl_N, rows_N, batch)


def _divergence(log_t_NV: Tensor, log_s_NV: Tensor) -> Tensor:
    return (log_t_NV.exp() * (log_t_NV - log_s_NV)).sum(-1)
