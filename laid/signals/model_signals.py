"""What one model says of a batch, and what is asked of it.

Shape suffixes: B batch, L tokens, H query heads, K KV heads (fewer under grouped-query attention),
D head_dim, N answer tokens of the whole batch, V vocabulary.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class QK:
    """Queries ``q_BLHD`` and keys ``k_BLKD`` of one layer, before RoPE (paper, Eq. 3)."""

    q: Tensor
    k: Tensor


@dataclass
class Signals:
    """What one model says of a batch.

    Attributes:
        qk: queries and keys by decoder layer.
        logits_NV: logits that predict the N answer tokens, row by row of the batch; None when
            nothing asked for them.
    """

    qk: dict[int, QK]
    logits_NV: Tensor | None


@dataclass(frozen=True)
class Wanted:
    """What the objective asks of a model: the decoder layers of Q and K, and whether logits."""

    layers: tuple[int, ...] = ()
    logits: bool = False

    def __bool__(self) -> bool:
        return bool(self.layers) or self.logits
