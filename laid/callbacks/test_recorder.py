"""Records the answers of ``laid test``, entry by entry, and writes its results."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from laid.callbacks.shown_figures import boards, show_figure
from laid.common.errors import UserError
from laid.common.json_codec import Json
from laid.common.printable import printable
from laid.data.conversation_files import source_name
from laid.data.datamodule import HaystackDataModule
from laid.data.entries import HaystackEntry
from laid.data.entry_groups import by_source, short_names
from laid.data.prompt import Batch
from laid.distributed.process_group import gather_rows, on_rank_zero
from laid.evaluation.accuracy_figures import accuracy_figure, depth_figure
from laid.evaluation.accuracy_table import format_table
from laid.evaluation.records import RECORDS, RESULTS, SOURCES, Record, RecordFile
from laid.evaluation.results import Training, titled, write_results
from laid.evaluation.summary import summarise

log = logging.getLogger(__name__)


@dataclass(eq=False)
class TestRecorder(Callback):
    """``laid test``: ``records.jsonl`` while it runs, then ``results.json``, a table and figures.

    A test that was killed is resumed with the entries that have no record yet, if what is tested
    is the same; otherwise the old records file is renamed and a message says what differs.

    Haystacks are recorded together, and each source of conversations by itself, in
    ``sources/NAME``: their answers are scored by other rules.

    Attributes:
        name: what tables call the model.
        command: what the user typed.
        seed: of the data.
        identity: gives everything that decides an answer, but for the entries, which are added.
            Asked on rank 0 alone: it reads the files.
        training: the training behind the checkpoint; None for a base model.
        files: on rank 0, once they are open, the records by source; "" of haystacks.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    folder: Path
    name: str
    command: str
    seed: int
    identity: Callable[[], Json]
    training: Training | None
    files: dict[str, RecordFile] = field(default_factory=dict, init=False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.limit_test_batches == 0:
            raise UserError("trainer.limit_test_batches is 0: no entry would be asked")
        data = trainer.datamodule
        # Rank 0 reads and writes the records, and sends the others the answered entries.
        data.answered = lambda: on_rank_zero(lambda: self._open(data))

    def _open(self, data: HaystackDataModule) -> list[str]:
        """Opens the records files; returns the entries that are answered in them."""
        model = self.identity()
        asked_of = by_source(data.test_entries)
        names = short_names(asked_of, "data.test.source")
        for source, entries in asked_of.items():
            folder = self.folder / SOURCES / names[source] if source else self.folder
            identity = {**model, "entries": data.source.fingerprint(entries)}
            if source:
                identity["scoring"] = entries[0]["scoring"]
            asked = map(HaystackEntry.of, entries)
            self.files[source] = file = RecordFile(folder / RECORDS, identity, asked)
            if file.kept:
                changed = ", ".join(f"{k}: {a} -> {b}" for k, (a, b) in file.changed.items())
                text = "earlier records are of another test (%s): they are kept as %s"
                log.info(text, changed, file.kept)
        done = [name for file in self.files.values() for name in file.done]
        if done:
            log.info("%d of %d entries are answered already", len(done), len(data.test_entries))
        return done

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: list[Record],
        batch: Batch,
        *at: int,
    ) -> None:
        sources = [entry.source for entry in batch.entries]
        found = gather_rows(list(zip(sources, outputs, batch.counted, strict=True)))
        for source, file in self.files.items():
            file.append(record for of, record, counted in found if counted and of == source)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Not on_test_end, which Lightning leaves out when no entry is left to answer.
        for source, file in self.files.items():
            if file.done:
                file.append([])  # where all were answered before, by a file that had another name
                self._sum_up(source, file, trainer, pl_module.max_new_tokens)

    def _sum_up(self, source: str, file: RecordFile, trainer: Trainer, most: int) -> None:
        done, folder = file.done.values(), file.path.parent
        training = self.training
        if training is not None:
            training = replace(training, run=os.path.relpath(self.folder / training.run, folder))
        results = summarise(
            done,
            name=self.name,
            identity=file.identity,
            command=self.command,
            seed=self.seed,
            available=trainer.datamodule.test_available[source],
            training=training,
        )
        write_results(folder / RESULTS, results)
        summary = results.summary
        under = f"test/{source_name(source)}/" if source else "test/"
        made = {"accuracy_by_size": accuracy_figure, "accuracy_by_depth": depth_figure}
        if source:
            del made["accuracy_by_depth"]  # no depth is known
        for name, draw in made.items():
            show_figure(trainer, draw([summary]), folder, name, under)
        for board in boards(trainer):
            for size, cell in summary.by_size.items():
                # A curve whose steps are haystack sizes.
                board.add_scalar(f"{under}accuracy_by_size", cell.accuracy, size)
        if source:
            summary = replace(
                summary, name=titled(f"{summary.name}, {source_name(source)}", results.scoring)
            )
        print(printable(format_table([summary])))
        if cut := sum(record.truncated for record in done):
            log.info("%d of %d answers were cut at model.max_new_tokens %d", cut, len(done), most)
        limited = results.entries.limited
        log.info("%s%s", folder / RESULTS, limited and f": {limited}")
        log.info("to compare it: laid compare %s OTHER_RESULTS", folder)
