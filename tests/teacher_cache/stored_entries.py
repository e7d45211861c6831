"""Drawn signals of five entries, and a cache of them."""

from dataclasses import fields

import torch

from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import QK, Signals, Wanted
from laid.teacher_cache.entry_signals import entry_item
from laid.teacher_cache.shard_filling import ShardFilling
from laid.teacher_cache.signal_store import CacheHeader, SignalStore

IDS = [f"train-2-{n}" for n in range(5)]
HEADER = CacheHeader(
    teacher={"weights": "1a"},
    reading={"entries": {"count": 5, "content": "2b"}},
    wanted=Wanted((1, 3), logits=True),
    stored_as="teacher",
    entries_per_shard=2,
)


def entry(at):
    """The signals of the entry in place ``at``, which has its number and three more tokens, as they
    are and as they are stored."""
    generator = torch.Generator().manual_seed(at)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator)

    qk = {n: QK(drawn(1, at + 3, 6, 4), drawn(1, at + 3, 2, 4)) for n in HEADER.wanted.layers}
    signals = Signals(qk, drawn(2, 7))
    return signals, entry_item(of_length(IDS[at], at + 3), signals, HEADER.wanted, "teacher")


def of_length(name, tokens):
    """An entry of which nothing but its length is known."""
    nothing = dict.fromkeys(field.name for field in fields(ModelInputs))
    return ModelInputs(
        **nothing | {"attention_mask_BL": torch.ones(1, tokens), "entry_ids": [name]}
    )


def filled(store, missing=None, rank=0, ranks=1):
    """Writes what is missing; gives the places of the entries that were asked for."""
    missing = store.unfinished() if missing is None else missing
    filling, given = ShardFilling(store, IDS, missing, rank, ranks), []
    for at in filling:
        given.append(at)
        if at >= 0:
            filling.add(entry(at)[1])
    filling.close()
    return given


def new_store(folder):
    """A cache of the entries, in three shards; what is there stays."""
    store = SignalStore.begin(folder, HEADER)
    store.keep_teacher(lambda new: (new / "config.json").write_text("{}"))
    return store
