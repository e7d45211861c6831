"""Drawn signals of five entries, and a cache of them."""

import torch

from laid.signals.model_signals import QK, Signals
from laid.teacher_cache.shard_filling import ShardFilling
from laid.teacher_cache.signal_store import CacheHeader, EntrySignals, SignalStore

IDS = [f"train-2-{n}" for n in range(5)]
HEADER = CacheHeader(
    teacher={"weights": "1a"},
    reading={"entries": {"count": 5, "content": "2b"}},
    layers=(1, 3),
    logits=True,
    every_query=True,
    stored_as="teacher",
    entries_per_shard=2,
)


def entry(at):
    """The signals of the entry in place ``at``: as many tokens as its number and three more."""
    generator = torch.Generator().manual_seed(at)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator)

    qk = {n: QK(drawn(1, at + 3, 6, 4), drawn(1, at + 3, 2, 4)) for n in HEADER.layers}
    return EntrySignals(IDS[at], at + 3, 2, Signals(qk, drawn(2, 7)))


def filled(store, missing=None, rank=0, ranks=1):
    """Writes what is missing; gives the places of the entries that were asked for."""
    missing = store.unfinished() if missing is None else missing
    filling, given = ShardFilling(store, IDS, missing, rank, ranks), []
    for at in filling:
        given.append(at)
        if at >= 0:
            filling.add(entry(at))
    filling.close()
    return given


def new_store(folder):
    """A cache of the entries, in three shards; what is there stays."""
    store = SignalStore.begin(folder, HEADER)
    store.keep_teacher(lambda new: (new / "config.json").write_text("{}"))
    return store
