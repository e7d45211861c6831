"""Writes down what the model answers, entry by entry, and sums it up."""

import json
from pathlib import Path
from typing import Any, TextIO

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from laid.data.datamodule import HaystackDataModule
from laid.data.prompt import Batch
from laid.distributed.process_group import gather_rows, on_rank_zero
from laid.evaluation.accuracy_figures import accuracy_figure, depth_figure, save_png
from laid.evaluation.accuracy_table import format_table
from laid.evaluation.records import Record, RecordFile
from laid.evaluation.results import summarise, write_results

RECORDS = "records.jsonl"
RESULTS = "results.json"


class TestRecorder(Callback):
    """``laid test``: ``records.jsonl`` while it runs, then ``results.json``, a table and figures.

    A test that was killed goes on with the entries that have no record yet, provided that what is
    tested is the same; otherwise the old records are put aside and a message says what differs.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    def __init__(
        self,
        folder: Path,
        name: str,
        command: str,
        seed: int,
        identity: dict[str, Any],
        training: dict[str, Any] | None,
    ):
        """
        Args:
            folder: where to write.
            name: what tables call the model.
            command: what the user typed.
            seed: the data's seed.
            identity: everything that decides an answer, but for the entries, which are added.
            training: what ``training_of`` says of the checkpoint's run; None for a base.
        """
        self.folder = folder
        self.name = name
        self.command = command
        self.seed = seed
        self.identity = identity
        self.training = training
        self.file: RecordFile | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "test":
            return
        data = trainer.datamodule
        # Rank 0 reads and writes the records, and tells the others what is answered already. Not
        # now: a model that can't be loaded must not put the records of another test aside.
        data.skip(lambda: on_rank_zero(lambda: self._open(data)))

    def _open(self, data: HaystackDataModule) -> list[str]:
        """Opens the records file; gives the entries that are answered in it."""
        identity = {**self.identity, "entries": data.test_fingerprint}
        self.file = RecordFile(self.folder / RECORDS, identity)
        if self.file.kept:
            changed = ", ".join(f"{k}: {a} -> {b}" for k, (a, b) in self.file.changed.items())
            print(f"laid: earlier records are of another test ({changed}); kept {self.file.kept}")
        if self.file.done:
            total = len(data.test_entries)
            print(f"laid: {len(self.file.done)} of {total} entries are answered already")
        return list(self.file.done)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        found: list[tuple[Record, bool]] = gather_rows(
            list(zip(outputs, batch.counted, strict=True))
        )
        if self.file is not None:
            self.file.append(record for record, counted in found if counted)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Not on_test_end, which Lightning leaves out when no entry is left to answer.
        if stage != "test" or self.file is None or not self.file.done:
            return
        results = summarise(
            self.file.done.values(),
            name=self.name,
            identity=self.file.identity,
            command=self.command,
            seed=self.seed,
            records_file=RECORDS,
            training=self.training,
        )
        write_results(self.folder / RESULTS, results)
        figures = {
            "accuracy_by_size": accuracy_figure([results]),
            "accuracy_by_depth": depth_figure([results]),
        }
        for name, figure in figures.items():
            save_png(figure, self.folder / "figures" / f"{name}.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                board = logger.experiment
                for name, figure in figures.items():
                    board.add_figure(f"test/{name}", figure, close=False)
                for size, cell in results["by_size"].items():
                    # A curve whose steps are haystack sizes.
                    board.add_scalar("test/accuracy_by_size", cell["accuracy"], int(size))
        print(format_table([results]))
        print(f"laid: {self.folder / RESULTS}")


class PredictionWriter(Callback):
    """``laid predict``: prints each answer and writes ``predictions.jsonl``."""

    def __init__(self, folder: Path):
        self.path = folder / "predictions.jsonl"

        self._file: TextIO | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("w", encoding="utf-8")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        found = gather_rows(list(zip(batch.entries, outputs, batch.counted, strict=True)))
        if self._file is None:
            return
        for entry, answer, counted in found:
            if not counted:
                continue
            line = {"id": entry["id"], "question": entry["question"], "answer": answer}
            line["images"] = list(entry["images"])
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            print(f"{entry['id']}\t{entry['question']}\t{answer}", flush=True)
        self._file.flush()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._file is not None:
            self._file.close()
            print(f"laid: {self.path}")
