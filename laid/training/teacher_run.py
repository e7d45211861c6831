"""Runs a teacher over the training entries, for a cache of its signals (``laid cache``)."""

from pathlib import Path

import lightning as L
from lightning import Callback
from torch.utils.data import DataLoader

from laid.data.datamodule import HaystackDataModule
from laid.data.prompt import Batch
from laid.distributed.process_group import kept_for_setup, on_rank_zero
from laid.distributed.stop_request import StopRequest
from laid.signals.model_signals import Wanted
from laid.teacher_cache.entry_signals import entry_item
from laid.teacher_cache.shard_filling import ShardFilling
from laid.teacher_cache.signal_store import SignalStore
from laid.teacher_cache.stored_numbers import StoredAs
from laid.training.cache_request import CacheRequest
from laid.training.image_learning import learn_images
from laid.training.sharded_strategy import check_precision, placement_of
from laid.vlm.model_loading import ModelArgs
from laid.vlm.model_paths import model_folder
from laid.vlm.online_teacher import OnlineTeacher


class TeacherRun(L.LightningModule):
    """A teacher that says what is wanted of it, of one entry at a time."""

    def __init__(self, teacher: ModelArgs, wanted: Wanted):
        super().__init__()
        self.args, self.wanted = teacher, wanted

    @kept_for_setup
    def prepare_data(self) -> None:
        if not self.args.random_weights:
            model_folder(self.args.path, self.args.revision)

    def configure_model(self) -> None:
        if not hasattr(self, "vlm") and self.trainer.datamodule.missing:
            check_precision(self.trainer)
            self.vlm = placement_of(self.trainer).teacher(self.args)
            self.teacher = OnlineTeacher(self.vlm)

    def configure_callbacks(self) -> list[Callback]:
        return [StopRequest()]

    def on_predict_end(self) -> None:
        """Every rank has written its shards when one of them looks what there is."""
        self.trainer.strategy.barrier()

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        signals = self.teacher.signals(batch.inputs, self.wanted)
        if batch.counted[0]:
            entries = self.trainer.datamodule
            item = entry_item(batch.inputs, signals, self.wanted, entries.stored_as)
            entries.filling.add(item)


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

    @kept_for_setup
    def prepare_data(self) -> None:
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """Begins the cache, or finds what it lacks.

        Raises:
            UserError: as ``CacheRequest``.
        """
        assert self.trainer is not None
        self.data.trainer = self.trainer
        self.data.setup("fit")
        request = CacheRequest(
            self.out, self.teacher, self.wanted, self.stored_as, self.trainer, self.data
        )
        self.ids = request.ids
        header, self.missing = on_rank_zero(request.begun)
        self.store = SignalStore(self.out, header)

    def predict_dataloader(self) -> DataLoader:
        """Entries with answers, batches of one; where features are kept, they are made first, as
        training makes them."""
        assert self.trainer is not None
        if self.missing:
            learn_images([self.trainer.lightning_module.vlm], self.data, "fit")
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        self.filling = ShardFilling(self.store, self.ids, self.missing, rank, ranks)
        return self.data.one_by_one(self.filling)

    def close(self) -> None:
        """Gives up what other processes may write now."""
        if self.filling is not None:
            self.filling.close()
