"""The largest logits of each answer token, and the mass of all others together.

Shape suffixes: N answer tokens of the whole batch, V vocabulary, K largest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class TopK:
    """How many of the logits, at which temperature, of how many ids: those of the tokenizer."""

    count: int
    temperature: float
    vocabulary: int

    def __str__(self) -> str:
        return f"the {self.count:,} largest of {self.vocabulary:,} logits at temperature " + (
            f"{self.temperature:g}"
        )


@dataclass(frozen=True)
class TopLogits:
    """Log-probabilities of the most probable ids, and of all others together; they sum to 1."""

    ids_NK: Tensor
    log_p_NK: Tensor
    log_rest_N: Tensor


def joined(parts: Sequence[TopLogits], device: torch.device) -> TopLogits:
    """Those of several haystacks, on a device."""
    each = ([getattr(part, f.name) for part in parts] for f in fields(TopLogits))
    return TopLogits(*(torch.cat(tensors).to(device) for tensors in each))


def log_probabilities(logits_NV: Tensor, temperature: float, vocabulary: int) -> Tensor:
    """``log_p_NV`` of the tokenizer's ids, in float32. Models pad the vocabulary differently
    (151,936 for 3B, 152,064 for 7B and 32B, of which 151,665 are real)."""
    return (logits_NV[:, :vocabulary].float() / temperature).log_softmax(-1)


def merged(log_p_NV: Tensor, ids_NK: Tensor) -> TopLogits:
    """Log-probabilities of some ids, with all others as one; there are others."""
    others_NV = log_p_NV.scatter(1, ids_NK, -torch.inf)
    return TopLogits(ids_NK, log_p_NV.gather(1, ids_NK), others_NV.logsumexp(-1))


def top_logits(logits_NV: Tensor, top: TopK) -> TopLogits:
    """The largest logits."""
    log_p_NV = log_probabilities(logits_NV, top.temperature, top.vocabulary)
    return merged(log_p_NV, log_p_NV.topk(top.count).indices)
