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


@dataclass
class DivergenceArgs(TermArgs):
    """KL divergence from the teacher on the answer's tokens, L_KL (Eq. 8)."""

    name: ClassVar[str] = "kl"

    weight: float = 0.3
    """lambda_KL in Eq. 8, the paper's alpha; at 0 the term is not built."""
    temperature: float = 2.0
    """tau, for both sides; the paper does not give it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature < float("inf"):
            raise UserError(
                f"objective.kl.temperature {self.temperature}: expected a finite number above 0"
            )

    def build(self, models: ModelPair) -> "Divergence":
        return Divergence(self, models)


class Divergence(Term):
    """``tau^2 KL(teacher || student)`` over the tokenizer's ids, at the answer's tokens."""

    of_student = of_teacher = Wanted(logits=True)

    def __init__(self, args: DivergenceArgs, models: ModelPair):
        super().__init__()
        self.temperature = args.temperature
        self.vocabulary = models.vocabulary

    def forward(self, student: Signals, teacher: Signals | None, inputs: ModelInputs) -> Tensor:
        """L_KL of a batch."""
        assert student.logits_NV is not None
        assert teacher is not None and teacher.logits_NV is not None
        return kl_loss(
            student.logits_NV,
            teacher.logits_NV,
            inputs.answers.rows_N,
            len(inputs.labels_BL),
            temperature=self.temperature,
            vocabulary=self.vocabulary,
        )


def kl_loss(
    student_NV: Tensor,
    teacher_NV: Tensor,
    rows_N: Tensor,
    batch: int,
    *,
    temperature: float,
    vocabulary: int,
) -> Tensor:
    """``tau^2 sum_i p_i^t log(p_i^t / p_i^s)``, meaned over answer tokens.

    Args:
        rows_N: the row of the batch that each token belongs to.
        batch: rows in the batch.
        temperature: tau, for both sides.
        vocabulary: ids of the tokenizer. Both sides are cut to them: models pad the vocabulary
            differently (151,936 for 3B, 152,064 for 7B and 32B, of which 151,665 are real).
    """
    log_s_NV = (student_NV[:, :vocabulary].float() / temperature).log_softmax(-1)
    log_t_NV = (teacher_NV[:, :vocabulary].float() / temperature).log_softmax(-1)
    kl_N = (log_t_NV.exp() * (log_t_NV - log_s_NV)).sum(-1)
    return temperature**2 * mean_by_row(kl_N, rows_N, batch)
