"""Runs a teacher over the training entries, for a cache of its signals (``laid cache``)."""

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
from lightning import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader

from laid.common.differences import differences
from laid.common.errors import UserError
from laid.data.datamodule import HaystackDataModule
from laid.data.prompt import Batch
from laid.distributed.process_group import on_rank_zero
from laid.distributed.stop_request import StopRequest
from laid.losses.attention_rows import question_rows
from laid.signals.model_inputs import ModelInputs, answer_labels
from laid.signals.model_signals import Wanted
from laid.teacher_cache.cache_identity import (
    reading_identity,
    refuse,
    teacher_differences,
    teacher_identity,
)
from laid.teacher_cache.cache_size import bytes_of, described
from laid.teacher_cache.shard_filling import ShardFilling
from laid.teacher_cache.signal_store import HEADER, CacheHeader, EntrySignals, SignalStore
from laid.teacher_cache.stored_numbers import StoredAs
from laid.training.sharded_strategy import check_precision, placement_of
from laid.vlm.model_loading import ModelArgs, load_config
from laid.vlm.model_paths import model_folder
from laid.vlm.online_teacher import OnlineTeacher

log = logging.getLogger(__name__)

SHARD_BYTES, SHARD_ENTRIES = 256 * 2**20, 64
"""About the most of a shard, which has at least one entry. What a process that dies has not written
of its shard is computed again."""
_MEASURED = 16
"""Entries whose tokens are counted to estimate the size of all."""


class TeacherRun(L.LightningModule):
    """A teacher that says what is wanted of it, of one entry at a time."""

    def __init__(self, teacher: ModelArgs, wanted: Wanted):
        super().__init__()
        self.args, self.wanted = teacher, wanted

    def prepare_data(self) -> None:
        """Brings the teacher from the hub to this machine."""
        if not self.args.random_weights:
            model_folder(self.args.path, self.args.revision)

    def configure_model(self) -> None:
        """Builds the teacher."""
        if not hasattr(self, "vlm") and self.trainer.datamodule.missing:
            check_precision(self.trainer)
            self.vlm = placement_of(self.trainer).teacher(self.args)
            self.teacher = OnlineTeacher(self.vlm)

    def configure_callbacks(self) -> list[Callback]:
        """Stops on signals."""
        return [StopRequest()]

    def on_predict_end(self) -> None:
        """Every rank has written its shards when one of them looks what there is."""
        self.trainer.strategy.barrier()

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Gives the signals of an entry to the cache."""
        signals = self.teacher.signals(batch.inputs, self.wanted)
        (entry,), (counted,) = batch.entries, batch.counted
        if counted:
            self.trainer.datamodule.filling.add(
                EntrySignals(entry.id, batch.inputs.tokens, _question(batch.inputs), signals)
            )


class CacheEntries(L.LightningDataModule):
    """The training entries whose signals a cache lacks, one by one: a teacher's last bits depend on
    what it is given together."""

    def __init__(
        self,
        data: HaystackDataModule,
        out: Path,
        teacher: ModelArgs,
        wanted: Wanted,
        stored_as: StoredAs,
    ):
        super().__init__()
        self.data, self.out, self.teacher, self.wanted = data, out, teacher, wanted
        self.stored_as: StoredAs = stored_as
        self.filling: ShardFilling | None = None

    def prepare_data(self) -> None:
        """Draws the mini-COCO if it is asked for."""
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """Begins the cache, or finds what it lacks.

        Raises:
            UserError: the folder holds something else or a cache of other settings, or what is
                missing does not fit on the disk.
        """
        self.data.trainer = self.trainer
        self.data.setup("fit")
        ids = list(self.data.train_entries["id"])
        if len(set(ids)) < len(ids):
            raise UserError("data.train.source: an id is there twice; expected one for each entry")
        header, self.missing = on_rank_zero(self._begun)
        self.store = SignalStore(self.out, header)

    def predict_dataloader(self) -> DataLoader:
        """Entries with answers, batches of one; where features are kept, they are made first, as
        training makes them."""
        assert self.trainer is not None
        if self.data.cache_features and self.missing:
            teacher = self.trainer.lightning_module.teacher
            for names, patches_PC, grid_I3 in self.data.images_to_learn("fit"):
                teacher.learn(names, patches_PC, grid_I3, self.data.feature_gib)
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        ids = list(self.data.train_entries["id"])
        self.filling = ShardFilling(self.store, ids, self.missing, rank, ranks)
        return self.data.one_by_one(self.filling)

    def close(self) -> None:
        """Gives up what other processes may write now."""
        if self.filling is not None:
            self.filling.close()

    def _begun(self) -> tuple[CacheHeader, Sequence[int]]:
        assert self.trainer is not None
        each = self._bytes_each()
        header = CacheHeader(
            teacher_identity(self.teacher, self.trainer),
            reading_identity(self.data),
            tuple(sorted(self.wanted.layers)),
            self.wanted.logits,
            self.wanted.every_query,
            self.stored_as,
            max(1, min(SHARD_ENTRIES, int(SHARD_BYTES / each))),
        )
        if not (self.out / HEADER).is_file():
            self._check_space(each, header.entries)
        store = SignalStore.begin(self.out, header)
        there = store.header
        refuse(
            f"the cache {self.out}",
            teacher_differences(there.teacher, header.teacher)
            | differences(there.reading, header.reading)
            | differences(vars(there.wanted), vars(header.wanted))
            | differences({"stored_as": there.stored_as}, {"stored_as": self.stored_as}),
            "now",
            "Give the settings that it was made with, or name another folder",
        )
        store.keep_teacher(load_config(self.teacher).save_pretrained)
        missing = store.unfinished()
        left = sum(len(store.entries_of(shard)) for shard in missing)
        if left < header.entries:
            log.info("%s entries are in %s", f"{header.entries - left:,}", self.out)
            self._check_space(each, left)
        return there, missing

    def _bytes_each(self) -> float:
        """Mean bytes of an entry, from the tokens of some: they go with the images."""
        assert self.trainer is not None
        entries = self.data.train_entries
        some = entries.select(range(0, len(entries), math.ceil(len(entries) / _MEASURED)))
        inputs = [batch.inputs for batch in self.data.probe(some, torch.device("cpu"))]
        tokens = sum(one.tokens for one in inputs)
        answers = sum(len(answer_labels(one.labels_BL)) for one in inputs)
        autocast = isinstance(self.trainer.precision_plugin, MixedPrecision)
        question = sum(_question(one) for one in inputs)
        counts = tokens, question, answers
        found = bytes_of(self.teacher, autocast, self.stored_as, self.wanted, *counts)
        return found / sum(some["size"]) * sum(entries["size"]) / len(entries)

    def _check_space(self, each: float, entries: int) -> None:
        """Says what the entries will take, and refuses what does not fit."""
        place = next(path for path in (self.out, *self.out.parents) if path.is_dir())
        free, takes = shutil.disk_usage(place).free, each * entries
        text = (
            f"{entries:,} entries of about {each / 1e6:,.2f} MB ({described(self.wanted)}) take "
            f"about {takes / 1e9:,.2f} GB in {self.out}, where {free / 1e9:,.2f} GB are free"
        )
        log.info("%s", text)
        if takes > free:
            raise UserError(
                f"{text}: name another folder with --out, or cache fewer entries "
                "(data.train.entries) or layers (model.objective)"
            )


def _question(inputs: ModelInputs) -> int:
    """How many tokens there are after the last image."""
    return int(question_rows(inputs).valid_BR.sum())
