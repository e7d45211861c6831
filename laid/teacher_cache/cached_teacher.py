"""A teacher whose signals were stored beforehand: no weights in memory, nor on the machine.

Shape suffixes: B batch, L tokens, R tokens of one entry whose signals are held, H query heads, K KV
heads, D head_dim, N answer tokens of the whole batch, V vocabulary.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from laid.common.differences import differences
from laid.common.errors import UserError
from laid.common.json_codec import Json
from laid.signals.model_inputs import ModelInputs, ReadAhead
from laid.signals.model_signals import QK, Signals, Wanted
from laid.signals.top_logits import joined
from laid.teacher_cache.cache_identity import refuse, teacher_differences
from laid.teacher_cache.entry_signals import HeldSignals
from laid.teacher_cache.signal_store import SignalStore
from laid.teacher_cache.stored_numbers import StoredAs
from laid.vlm.model_loading import ModelArgs
from laid.vlm.weightless_teacher import WeightlessTeacher

log = logging.getLogger(__name__)


def cache_of_run(
    folder: Path, teacher: Json | None, reading: Json, stored_as: StoredAs
) -> SignalStore:
    """The cache in a folder, which may have gaps.

    Args:
        teacher: as ``teacher_identity``, of the teacher that the run names, if it names one.
        reading: as ``reading_identity``, of the run.
        stored_as: the numbers that the run takes.

    Raises:
        UserError: there is none, or it is of something else than the run.
    """
    store = SignalStore.open(folder)
    found = differences(store.header.reading, reading)
    found |= differences(
        {"model.teacher_stored_as": store.header.stored_as},
        {"model.teacher_stored_as": stored_as},
    )
    if teacher is not None:
        found = teacher_differences(store.header.teacher, teacher) | found
    refuse(
        f"the cache {folder}",
        found,
        "this run",
        "Train with the settings that it was made with, or make another (laid cache); with "
        "--model.teacher null its teacher is taken, whichever it is",
    )
    return store


def _read_ahead(
    store: SignalStore, places: Mapping[str, tuple[int, int, int]], entry: str, _: Sequence[str]
) -> None:
    if entry in places:  # else it is asked for, and stored, by the process that trains
        store.read_ahead(*places[entry][:2])


class CachedTeacher(WeightlessTeacher):
    """The signals of a cache."""

    def __init__(self, store: SignalStore, gaps: Collection[int] = ()):
        """
        Args:
            store: whose shards are whole, but for ``gaps``.

        Raises:
            UserError: a part of it can't be read.
        """
        super().__init__(ModelArgs(str(store.teacher)))
        self._store = store
        self._places: dict[str, tuple[int, int, int]] = {}
        for shard in store.shards:
            if shard not in gaps:
                self._know(shard)
        count = f"{len(self._places):,}"
        log.info("the teacher's signals of %s entries are in %s", count, store.folder)

    def _know(self, shard: int) -> None:
        for n, (name, tokens) in enumerate(self._store.tokens(shard).items()):
            self._places[name] = shard, n, tokens

    @property
    def ahead(self) -> ReadAhead:
        return partial(_read_ahead, self._store, self._places)

    def missing(self, wanted: Wanted) -> str | None:
        held, lacks = self._store.header.wanted, []
        if layers := sorted(set(wanted.layers) - set(held.layers)):
            lacks.append(f"teacher layers {layers}: it holds {sorted(held.layers) or 'none'}")
        for name in ("queries", "keys"):
            ours, theirs = getattr(wanted, name), getattr(held, name)
            if wanted.layers and ours | theirs != theirs:
                lacks.append(f"{name} of {ours}: it holds those of {theirs}")
        same = held.logits or (not wanted.logits and wanted.top_k == held.top_k)
        if wanted.answers and not same:
            ours = wanted.top_k or "the logits of answers"
            lacks.append(f"{ours}: it holds {held.top_k or 'none'}")
        return f"the cache {self._store.folder} lacks " + " and ".join(lacks) if lacks else None

    def signals(self, inputs: ModelInputs, wanted: Wanted) -> Signals:
        """Raises:
        UserError: an entry is not in the cache, or can't be read.
        """
        length, device = inputs.input_ids_BL.shape[1], inputs.input_ids_BL.device
        assert not self.missing(wanted)
        rows = [self._entry(name, length, wanted) for name in inputs.entry_ids]

        def padded(parts: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
            first_RHD, _ = parts[0]
            out_BLHD = first_RHD.new_zeros(len(parts), length, *first_RHD.shape[1:])
            for row_LHD, (part_RHD, columns_R) in zip(out_BLHD, parts, strict=True):
                row_LHD[slice(len(part_RHD)) if columns_R is None else columns_R] = part_RHD
            return out_BLHD.to(device)

        qk = {
            layer: QK(
                padded([(row.signals.qk[layer].q, row.queries_R) for row in rows]),
                padded([(row.signals.qk[layer].k, row.keys_R) for row in rows]),
            )
            for layer in wanted.layers
        }
        logits = [row.signals.logits_NV for row in rows if row.signals.logits_NV is not None]
        tops = [row.signals.top for row in rows if row.signals.top is not None]
        found = Signals(qk, torch.cat(logits).to(device) if logits else None)
        if tops:
            found.top = joined(tops, device)
        return found.only(wanted)

    def _entry(self, name: str, length: int, wanted: Wanted) -> HeldSignals:
        if name not in self._places:
            raise UserError(f"entry {name} is not in the cache {self._store.folder}")
        shard, n, tokens = self._places[name]
        if tokens > length:
            raise UserError(
                f"entry {name} has {tokens} tokens in the cache {self._store.folder} and at most "
                f"{length} in this run: make another cache"
            )
        return self._store.read(shard, n, wanted)
