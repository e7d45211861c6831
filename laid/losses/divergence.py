"""The two terms on the answer's tokens: KL from the teacher (Eq. 8) and cross-entropy (SFT).

Shape suffixes: N answer tokens of the whole batch, V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor

from laid.losses.reduction import mean_by_row


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


def sft_loss(logits_NV: Tensor, labels_N: Tensor, rows_N: Tensor, batch: int) -> Tensor:
    """Cross-entropy of the answer's tokens; 0 with its graph kept where there are none."""
    if not len(labels_N):
        return 0.0 * logits_NV.float().sum()
    return mean_by_row(
        F.cross_entropy(logits_NV.float(), labels_N, reduction="none"), rows_N, batch
    )
