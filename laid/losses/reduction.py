"""Means over a batch in which every haystack weighs the same, whatever its length.

A mean over all tokens of a batch would make the loss depend on which haystacks share it; a mean
within each haystack and then over haystacks does not, so that 2 x 1 and 1 x 2 give one loss.

Shape suffixes: B batch, L tokens, N answer tokens of the whole batch.
"""

import torch
from torch import Tensor


def mean_by_entry(values_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Mean over the unmasked tokens of each row, then over rows; a row without any counts as 0."""
    mask_BL = mask_BL.to(values_BL.dtype)
    totals_B = (values_BL * mask_BL).sum(-1)
    return (totals_B / mask_BL.sum(-1).clamp(min=1)).mean()


def mean_by_row(values_N: Tensor, rows_N: Tensor, batch: int) -> Tensor:
    """The same for values in a flat list, of which ``rows_N`` says whose they are."""
    counts_B = torch.zeros(batch, dtype=values_N.dtype, device=values_N.device)
    counts_B.index_add_(0, rows_N, torch.ones_like(values_N))
    return (values_N / counts_B[rows_N]).sum() / batch
