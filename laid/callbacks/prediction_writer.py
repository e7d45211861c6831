"""Writes the answers of ``laid predict``."""

import json
import logging
from pathlib import Path
from typing import Any, TextIO

from lightning import Callback, LightningModule, Trainer

from laid.common.printable import printable
from laid.data.prompt import Batch
from laid.distributed.process_group import gather_rows

log = logging.getLogger(__name__)


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
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *at: int
    ) -> None:
        found = gather_rows(list(zip(batch.entries, outputs, batch.counted, strict=True)))
        if self._file is None:
            return
        for entry, answer in [(entry, answer) for entry, answer, counted in found if counted]:
            line = {"id": entry.id, "question": entry.question, "answer": answer}
            line["images"] = list(entry.images)
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            print(printable(f"{entry.id}\t{entry.question}\t{answer}"), flush=True)
        self._file.flush()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._file is not None:
            self._file.close()
            log.info("%s", self.path)
