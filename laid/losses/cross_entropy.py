"""Cross-entropy with the right answer, the supervised term (SFT) of Eq. 8.

Shape suffixes: N answer tokens of the whole batch, V vocabulary.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from laid.losses.reduction import mean_by_row
from laid.losses.term import ModelPair, Term, TermArgs
from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import Signals, Wanted


@dataclass
class CrossEntropyArgs(TermArgs):
    """Cross-entropy with the right answer, L_SFT (Eq. 8)."""

    name: ClassVar[str] = "sft"
    has_teacher: ClassVar[bool] = False

    weight: float = 0.7
    """lambda_SFT in Eq. 8, 1 - alpha; at 0 the term is not built."""

    def build(self, models: ModelPair) -> "CrossEntropy":
        return CrossEntropy()


class CrossEntropy(Term):
    """Cross-entropy of the answer's tokens."""

    of_student = Wanted(logits=True)

    def forward(self, student: Signals, teacher: Signals | None, inputs: ModelInputs) -> Tensor:
        assert student.logits_NV is not None
        answers = inputs.answers
        return sft_loss(student.logits_NV, answers.labels_N, answers.rows_N, len(inputs.labels_BL))


def sft_loss(logits_NV: Tensor, labels_N: Tensor, rows_N: Tensor, batch: int) -> Tensor:
    """Cross-entropy of the answer's tokens; 0 with its graph kept where there are none."""
    if not len(labels_N):
        return 0.0 * logits_NV.float().sum()
    each_N = F.cross_entropy(logits_NV.float(), labels_N, reduction="none")
    return mean_by_row(each_N, rows_N, batch)
