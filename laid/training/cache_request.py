"""The cache that a run makes or fills: begun or found, its size said first."""

import logging
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision

from laid.common.differences import differences
from laid.common.disk_space import free_bytes
from laid.common.errors import UserError
from laid.common.json_codec import Json
from laid.data.datamodule import HaystackDataModule
from laid.signals.model_signals import Wanted
from laid.signals.token_choice import QUESTION
from laid.teacher_cache.cache_identity import (
    Differing,
    reading_identity,
    refuse,
    teacher_differences,
    teacher_identity,
)
from laid.teacher_cache.cache_size import bytes_of, described
from laid.teacher_cache.signal_store import HEADER, CacheHeader, SignalStore
from laid.teacher_cache.stored_numbers import StoredAs
from laid.vlm.model_loading import ModelArgs, load_config

log = logging.getLogger(__name__)

SHARD_BYTES, SHARD_ENTRIES = 256 * 2**20, 64
"""About the most of a shard, which has at least one entry. What a process that dies has not written
of its shard is computed again."""
_MEASURED = 16
"""Entries whose questions and answers are counted to estimate those of all."""


@dataclass(frozen=True)
class CacheRequest:
    """What a run would have in a cache.

    Attributes:
        folder: of the cache.
        teacher: whose signals it has.
        wanted: of each entry.
        stored_as: in which numbers.
        trainer, data: of the run, set up.
    """

    folder: Path
    teacher: ModelArgs
    wanted: Wanted
    stored_as: StoredAs
    trainer: Trainer
    data: HaystackDataModule

    @property
    def ids(self) -> list[str]:
        """Of all entries, in the cache's order.

        Raises:
            UserError: one is there twice.
        """
        ids = list(self.data.train_entries["id"])
        twice = next((name for name, count in Counter(ids).items() if count > 1), None)
        if twice is not None:
            raise UserError(
                f"data.train: the id {twice!r} is there twice, and a cache needs one for each "
                "entry; ids begin with the file's name: give files of one name other names"
            )
        return ids

    def begun(
        self, by_entry: bool = False, may_hold_more: bool = False
    ) -> tuple[CacheHeader, list[int]]:
        """Begins the cache, or finds what it lacks; says what that will take.

        Args:
            by_entry: every entry is a shard of its own, rather than as many as fit well.
            may_hold_more: whether the cache may hold more of each entry than is wanted.

        Returns:
            Its header, and the shards that are missing or damaged.

        Raises:
            UserError: the folder holds something else or a cache of other settings, or what is
                missing does not fit on the disk.
        """
        each = self._bytes_each()
        header = CacheHeader(
            teacher_identity(self.teacher, self.trainer),
            reading_identity(self.data),
            replace(self.wanted, layers=tuple(sorted(self.wanted.layers))),
            self.stored_as,
            1 if by_entry else max(1, min(SHARD_ENTRIES, int(SHARD_BYTES / each))),
        )
        if not (self.folder / HEADER).is_file():
            self._check_space(each, header.entries)
        store = SignalStore.begin(self.folder, header)
        there = store.header
        held: Differing = {}
        if not (may_hold_more and there.wanted | header.wanted == there.wanted):
            held = differences(_named(there.wanted), _named(header.wanted))
        refuse(
            f"the cache {self.folder}",
            teacher_differences(there.teacher, header.teacher)
            | differences(there.reading, header.reading)
            | held
            | differences({"stored_as": there.stored_as}, {"stored_as": self.stored_as}),
            "now",
            "Give the settings that it was made with, or name another folder",
        )
        store.keep_teacher(load_config(self.teacher).save_pretrained)
        missing = store.unfinished()
        left = sum(len(store.entries_of(shard)) for shard in missing)
        if left < header.entries:
            log.info("%s entries are in %s", f"{header.entries - left:,}", self.folder)
            self._check_space(each, left)
        return there, missing

    def _bytes_each(self) -> float:
        """Mean bytes of an entry; called where the sizes of its images are known."""
        data, entries = self.data, self.data.train_entries
        some = entries.select(range(0, len(entries), math.ceil(len(entries) / _MEASURED)))
        inputs = [batch.inputs for batch in data.probe(some, torch.device("cpu"))]
        shown = sum(bool(size) for size in some["size"])
        question = sum(int(QUESTION.mask(one).sum()) for one in inputs) / max(1, shown)
        answers = sum(len(one.answers.labels_N) for one in inputs) / len(some)
        lengths = data.encoder.lengths(entries, data.image_sizes)
        each = list(zip(lengths, entries["size"], strict=True))
        queries, keys = (
            sum(tokens.count(length, question * bool(size)) for length, size in each)
            for tokens in (self.wanted.queries, self.wanted.keys)
        )
        counts = queries, keys, answers * len(entries)
        autocast = isinstance(self.trainer.precision_plugin, MixedPrecision)
        found = bytes_of(self.teacher, autocast, self.stored_as, self.wanted, *counts)
        return found / len(entries)

    def _check_space(self, each: float, entries: int) -> None:
        """Says what the entries will take, and refuses what does not fit."""
        free, takes = free_bytes(self.folder), each * entries
        text = (
            f"{entries:,} entries of about {each / 1e6:,.2f} MB ({described(self.wanted)}) take "
            f"about {takes / 1e9:,.2f} GB in {self.folder}, where {free / 1e9:,.2f} GB are free"
        )
        log.info("%s", text)
        if takes > free:
            raise UserError(
                f"{text}: name a folder elsewhere, or cache fewer entries (data.train.entries) "
                "or layers (model.objective)"
            )


def _named(wanted: Wanted) -> Json:
    return {**vars(wanted), "queries": str(wanted.queries), "keys": str(wanted.keys)}
