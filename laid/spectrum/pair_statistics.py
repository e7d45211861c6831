"""Attention logits by rotary pair: which frequencies a head uses, and what they contribute.

RoPE rotates the dimensions f and f + D / 2 of a query and a key together, so that a logit is a sum
over such pairs (docs/spectrum.md):

    c_f(i, j) = Re[q_if conj(k_jf) e^(i w_f (p_i - p_j))] / sqrt(D)

Shape suffixes: B batch (of one haystack), R rows of the question, L tokens, H query heads, K KV
heads, G query heads of one KV head (H = K G), D head_dim, F = D / 2 rotary pairs.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from laid.losses.attention_rows import Rows, logits_of, question_rows, rotated
from laid.losses.head_mixing import as_pairs
from laid.signals.model_inputs import IGNORED, ModelInputs
from laid.signals.model_signals import QK, Rotate

SECTIONS = {1: ("position",), 3: ("temporal", "height", "width")}
"""What the rows of positions are, by their number."""


@dataclass(frozen=True)
class RotaryPairs:
    """What RoPE does with each pair.

    Attributes:
        frequency: radians by which it rotates from one position to the next.
        section: the row of positions that rotates it, one of ``SECTIONS``.
    """

    frequency: tuple[float, ...]
    section: tuple[str, ...]

    @property
    def wavelength(self) -> tuple[float, ...]:
        """Positions of a whole rotation."""
        return tuple(2 * math.pi / frequency for frequency in self.frequency)


def rotary_pairs(rotate: Rotate, rows: int, head_dim: int, device: torch.device) -> RotaryPairs:
    """Asks RoPE itself: by which angle each pair rotates at position 1 of each of ``rows``."""
    x_BLHD = torch.eye(2, device=device)[0].repeat_interleave(head_dim // 2).view(1, 1, 1, -1)
    at_1 = torch.eye(rows, dtype=torch.long, device=device).view(rows, rows, 1, 1)
    angles_F = [as_pairs(rotate(x_BLHD, positions))[0, 0, 0].angle() for positions in at_1]
    frequency_F, row_F = torch.stack(angles_F).abs().max(0)
    section = tuple(SECTIONS[rows][row] for row in row_F.tolist())
    return RotaryPairs(tuple(frequency_F.tolist()), section)


@dataclass(frozen=True)
class PairStatistics:
    """What a layer's heads do with each rotary pair in one haystack, in float64; means are over the
    rows of the question.

    Attributes:
        query_HF: mean of |q_f|, over f normalised to sum to 1.
        usage_HF: mean of |q_f| times mean over tokens of |k_f|, over f normalised to sum to 1.
        mean_HF: mean of the attention-weighted mean over keys of c_f.
        variance_HF: mean of the attention-weighted variance over keys of c_f.
    """

    query_HF: Tensor
    usage_HF: Tensor
    mean_HF: Tensor
    variance_HF: Tensor


def asked_rows(inputs: ModelInputs) -> Rows:
    """The rows of a haystack's question, the text after the last image, without those of the
    answer; of a batch of one."""
    rows = question_rows(inputs)
    asked_R = inputs.labels_BL[0, rows.columns_BR[0]] == IGNORED
    return rows.at(asked_R.nonzero().T)


def pair_statistics(qk: QK, rows: Rows, rotate: Rotate) -> PairStatistics:
    """Statistics of one layer in one haystack.

    Nothing of the size rows x keys x pairs is made: mean and variance follow from the first and
    second moments of the keys under each row's attention.

    Args:
        qk: before RoPE, of a batch of one.
        rows: as ``asked_rows``.
        rotate: the layer's RoPE.
    """
    q_BRHD, k_BLKD = rotated(qk, rows, rotate)
    p_HRL = logits_of(q_BRHD, k_BLKD, rows)[0].double().softmax(-1)
    q_RHF, k_LKF = as_pairs(q_BRHD[0]), as_pairs(k_BLKD[0])
    heads, kv_heads = q_RHF.shape[1], k_LKF.shape[1]
    p_KGRL = p_HRL.unflatten(0, (kv_heads, heads // kv_heads))
    x_LKF, y_LKF = k_LKF.real.double(), k_LKF.imag.double()
    powers = torch.stack([x_LKF, y_LKF, x_LKF**2, y_LKF**2, x_LKF * y_LKF])
    x, y, xx, yy, xy = torch.einsum("kgrl,mlkf->mrkgf", p_KGRL, powers).flatten(2, 3)
    a, b = q_RHF.real.double(), q_RHF.imag.double()
    head_dim = q_BRHD.shape[-1]
    mean_RHF = (a * x + b * y) / head_dim**0.5
    square_RHF = (a**2 * xx + b**2 * yy + 2 * a * b * xy) / head_dim
    # Every token that a row of the question sees; those of the answer come after.
    seen_LKF = k_LKF[: int(rows.columns_BR.max()) + 1]
    query_HF = q_RHF.abs().double().mean(0)
    key_HF = seen_LKF.abs().double().mean(0).repeat_interleave(heads // kv_heads, dim=0)
    return PairStatistics(
        query_HF=normalised(query_HF),
        usage_HF=normalised(query_HF * key_HF),
        mean_HF=mean_RHF.mean(0),
        variance_HF=(square_RHF - mean_RHF**2).clamp(min=0).mean(0),
    )


def normalised(x_HF: Tensor) -> Tensor:
    """Divided by its sum over pairs; 0 for a head where that is 0."""
    return x_HF / x_HF.sum(-1, keepdim=True).clamp(min=1e-30)
