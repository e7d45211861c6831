"""Records the answers of ``laid test``, entry by entry, and writes its results."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from laid.callbacks.shown_figures import boards, show_figure
from laid.common.errors import UserError
from laid.common.json_codec import Json
from laid.common.printable import printable
from laid.data.datamodule import HaystackDataModule
from laid.data.entries import HaystackEntry
from laid.data.prompt import Batch
from laid.distributed.process_group import gather_rows, on_rank_zero
from laid.evaluation.accuracy_figures import accuracy_figure, depth_figure
from laid.evaluation.accuracy_table import format_table
from laid.evaluation.records import RECORDS, Record, RecordFile
from laid.evaluation.results import Training, write_results
from laid.evaluation.summary import summarise

log = logging.getLogger(__name__)

RESULTS = "results.json"


@dataclass(eq=False)
class TestRecorder(Callback):
    """``laid test``: ``records.jsonl`` while it runs, then ``results.json``, a table and figures.

    A test that was killed is resumed with the entries that have no record yet, if what is tested
    is the same; otherwise the old records file is renamed and a message says what differs.

    Attributes:
        name: what tables call the model.
        command: what the user typed.
        seed: of the data.
        identity: gives everything that decides an answer, but for the entries, which are added.
            Asked on rank 0 alone: it reads the files.
        training: the training behind the checkpoint; None for a base model.
        file: on rank 0, once it is open.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    folder: Path
    name: str
    command: str
    seed: int
    identity: Callable[[], Json]
    training: Training | None
    file: RecordFile | None = field(default=None, init=False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.limit_test_batches == 0:
            raise UserError("trainer.limit_test_batches is 0: no entry would be asked")
        data = trainer.datamodule
        # Rank 0 reads and writes the records, and sends the others the answered entries.
        data.answered = lambda: on_rank_zero(lambda: self._open(data))

    def _open(self, data: HaystackDataModule) -> list[str]:
        """Opens the records file; returns the entries that are answered in it."""
        identity = {**self.identity(), "entries": data.source.fingerprint(data.test_entries)}
        entries = map(HaystackEntry.of, data.test_entries)
        self.file = RecordFile(self.folder / RECORDS, identity, entries)
        if self.file.kept:
            changed = ", ".join(f"{k}: {a} -> {b}" for k, (a, b) in self.file.changed.items())
            text = "earlier records are of another test (%s): they are kept as %s"
            log.info(text, changed, self.file.kept)
        if self.file.done:
            total = len(data.test_entries)
            log.info("%d of %d entries are answered already", len(self.file.done), total)
        return list(self.file.done)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: list[Record],
        batch: Batch,
        *at: int,
    ) -> None:
        found = gather_rows(list(zip(outputs, batch.counted, strict=True)))
        if self.file is not None:
            self.file.append(record for record, counted in found if counted)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Not on_test_end, which Lightning leaves out when no entry is left to answer.
        if self.file is None or not self.file.done:
            return
        self.file.append([])  # where all were answered before, by a file that had another name
        done = self.file.done.values()
        results = summarise(
            done,
            name=self.name,
            identity=self.file.identity,
            command=self.command,
            seed=self.seed,
            available=trainer.datamodule.test_available,
            training=self.training,
        )
        write_results(self.folder / RESULTS, results)
        summary = results.summary
        made = {"accuracy_by_size": accuracy_figure, "accuracy_by_depth": depth_figure}
        for name, draw in made.items():
            show_figure(trainer, draw([summary]), self.folder, name, "test/")
        for board in boards(trainer):
            for size, cell in summary.by_size.items():
                # A curve whose steps are haystack sizes.
                board.add_scalar("test/accuracy_by_size", cell.accuracy, size)
        print(printable(format_table([summary])))
        if cut := sum(record.truncated for record in done):
            most = pl_module.max_new_tokens
            log.info("%d of %d answers were cut at model.max_new_tokens %d", cut, len(done), most)
        limited = results.entries.limited
        log.info("%s%s", self.folder / RESULTS, limited and f": {limited}")
