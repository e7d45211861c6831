"""What one model says of a batch, and what is asked of it.

Shape suffixes: B batch, L tokens, H query heads, K KV heads (fewer under grouped-query attention),
D head_dim, N answer tokens of the whole batch, V vocabulary.
"""

from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Protocol

from torch import Tensor

from laid.signals.token_choice import ALL, Tokens, at_columns
from laid.signals.top_logits import TopK, TopLogits, top_logits


class Rotate(Protocol):
    """RoPE of a model's layer."""

    def __call__(self, x_BLHD: Tensor, positions_3BL: Tensor, layer: int = 0) -> Tensor:
        """Rotates queries or keys by positions, in float32. ``layer``: for models whose layers
        rotate differently; otherwise any is the same."""


@dataclass(frozen=True)
class AttentionShape:
    """The decoder's attention: layers, query heads, KV heads, head_dim.

    Attributes:
        position_rows: rows of positions, 3 for M-RoPE (time, height, width), else 1.
        kinds: of each layer, by name; layers of different kinds rotate or see differently. Empty:
            all are of one kind.
        windows: tokens that a row of each layer sees, itself among them; 0: all up to itself.
            Empty: 0 for all.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    position_rows: int = 3
    kinds: tuple[str, ...] = ()
    windows: tuple[int, ...] = ()

    def kind(self, layer: int) -> str:
        return self.kinds[layer] if self.kinds else ""

    def window(self, layer: int) -> int:
        """How many tokens a row of it sees; 0: all."""
        return self.windows[layer] if self.windows else 0


@dataclass
class QK:
    """Queries ``q_BLHD`` and keys ``k_BLKD`` of one layer, before RoPE (paper, Eq. 3)."""

    q: Tensor
    k: Tensor

    def at(self, columns_BR: Tensor) -> "QK":
        """Those of some tokens."""
        return QK(at_columns(self.q, columns_BR), at_columns(self.k, columns_BR))


@dataclass
class Signals:
    """What one model says of a batch."""

    qk: dict[int, QK]  # by decoder layer
    logits_NV: Tensor | None = None
    """Logits that predict the N answer tokens, row by row; None when nothing asked for them."""
    top: TopLogits | None = None
    """The largest of them, where they are held so."""

    def only(self, wanted: "Wanted") -> "Signals":
        """What was asked for, of signals that hold at least that."""
        qk = {layer: self.qk[layer] for layer in wanted.layers}
        top = self.top
        if wanted.top_k is not None and top is None:
            assert self.logits_NV is not None
            top = top_logits(self.logits_NV, wanted.top_k)
        return Signals(qk, self.logits_NV if wanted.logits else None, top if wanted.top_k else None)


@dataclass(frozen=True)
class Wanted:
    """What the objective asks of a model.

    Attributes:
        layers: decoder layers whose queries and keys are wanted.
        logits: whether the logits that predict the answer are.
        top_k: where the largest of them suffice.
        queries, keys: the tokens whose queries and keys count; others may be anything finite.
    """

    layers: tuple[int, ...] = ()
    logits: bool = False
    queries: Tokens = ALL
    keys: Tokens = ALL
    top_k: TopK | None = None

    def __bool__(self) -> bool:
        return bool(self.layers) or self.answers

    @property
    def answers(self) -> bool:
        """Whether any logits are wanted."""
        return self.logits or self.top_k is not None

    def __or__(self, other: "Wanted") -> "Wanted":
        """What either asks for."""
        layers = tuple(dict.fromkeys((*self.layers, *other.layers)))
        of_layers = [one for one in (self, other) if one.layers]
        queries, keys = (
            reduce(or_, (getattr(one, name) for one in of_layers), Tokens())
            for name in ("queries", "keys")
        )
        # Other numbers or temperatures need all logits.
        tops = {one.top_k for one in (self, other)} - {None}
        logits = self.logits or other.logits or len(tops) > 1
        top_k = None if logits or not tops else tops.pop()
        return Wanted(layers, logits, queries, keys, top_k)
