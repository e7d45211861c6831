"""What is stored of a teacher's signals of one entry, and what it is when it is read.

Shape suffixes: B batch, L tokens of the entry, R those whose queries or keys are held, H heads, D
head_dim, N answer tokens, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from laid.common.tensor_shards import Item
from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import QK, Signals, Wanted
from laid.signals.token_choice import at_columns
from laid.signals.top_logits import TopLogits
from laid.teacher_cache.stored_numbers import packed, unpacked


@dataclass(frozen=True)
class HeldSignals:
    """Signals of one entry at the tokens that are held.

    Attributes:
        signals: ``q_RHD``, ``k_RHD`` and logits, all of them where that is what is held.
        queries_R, keys_R: the places of the tokens; None where they are all.
    """

    signals: Signals
    queries_R: Tensor | None
    keys_R: Tensor | None


def entry_item(inputs: ModelInputs, signals: Signals, held: Wanted, stored_as: str) -> Item:
    """What is stored of an entry's signals; ``inputs`` and ``signals`` are of it alone."""
    signals = signals.only(held)
    (name,) = inputs.entry_ids
    tensors: dict[str, Tensor] = {}
    for kind, choice in (("q", held.queries), ("k", held.keys)):
        columns_BR = None if choice.every else choice.columns(inputs)[0]
        for layer in held.layers:
            x_BLHD = getattr(signals.qk[layer], kind)
            x_BRHD = x_BLHD if columns_BR is None else at_columns(x_BLHD, columns_BR)
            tensors |= packed(f"{layer}.{kind}", x_BRHD[0], stored_as)
        if columns_BR is not None and held.layers:
            tensors[f"{kind}.tokens"] = columns_BR[0].int()
    if held.logits:
        assert signals.logits_NV is not None
        half = stored_as == "bfloat16"
        tensors["logits"] = signals.logits_NV.to(torch.bfloat16) if half else signals.logits_NV
    if held.top_k is not None:
        assert signals.top is not None
        tensors["top.ids"] = signals.top.ids_NK.int()
        tensors |= {"top.log_p": signals.top.log_p_NK, "top.log_rest": signals.top.log_rest_N}
    return Item(name, (inputs.tokens,), {key: x.cpu() for key, x in tensors.items()})


def held_signals(
    stored: Callable[[str], Tensor], held: Wanted, wanted: Wanted, stored_as: str
) -> HeldSignals:
    """What is wanted of an entry, of which ``entry_item`` stored what is held."""

    def places(kind: str, every: bool) -> Tensor | None:
        return None if every or not wanted.layers else stored(f"{kind}.tokens").long()

    qk = {
        layer: QK(*(unpacked(stored, f"{layer}.{kind}", stored_as) for kind in "qk"))
        for layer in wanted.layers
    }
    signals = Signals(qk)
    if held.logits and wanted.answers:
        signals = Signals(qk, stored("logits"))
    elif wanted.top_k is not None:
        top = stored("top.ids").long(), stored("top.log_p"), stored("top.log_rest")
        signals = Signals(qk, top=TopLogits(*top))
    return HeldSignals(signals, places("q", held.queries.every), places("k", held.keys.every))
