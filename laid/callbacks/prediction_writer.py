"""Writes the answers of ``laid predict``."""

import json
import logging
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from laid.common.atomic_files import atomic_write_text
from laid.common.errors import UserError
from laid.common.printable import printable
from laid.data.prompt import Batch
from laid.distributed.process_group import gather_rows
from laid.evaluation.scoring import Answer

log = logging.getLogger(__name__)


class PredictionWriter(Callback):
    """``laid predict``: prints each answer, and at the end writes ``predictions.jsonl``.

    An earlier file stays until all questions are answered; what was answered before an error is on
    the screen.

    Raises:
        UserError: ``trainer.limit_predict_batches`` is 0.
    """

    def __init__(self, folder: Path):
        self.path = folder / "predictions.jsonl"
        self._lines: list[str] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.limit_predict_batches == 0:
            raise UserError("trainer.limit_predict_batches is 0: no question would be answered")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: list[Answer],
        batch: Batch,
        *at: int,
    ) -> None:
        found = gather_rows(list(zip(batch.entries, outputs, batch.counted, strict=True)))
        if not trainer.is_global_zero:
            return
        for entry, answer, counted in found:
            if not counted:
                continue
            line = {
                "id": entry.id,
                "question": entry.question,
                "answer": answer.text,
                "truncated": answer.truncated,
                "images": list(entry.images),
            }
            self._lines.append(json.dumps(line, ensure_ascii=False) + "\n")
            print(printable(f"{entry.id}\t{entry.question}\t{answer.text}"), flush=True)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            atomic_write_text(self.path, "".join(self._lines))
            answered, all_of_them = len(self._lines), len(trainer.datamodule.predict_entries)
            limited = f": {answered} of {all_of_them} questions" if answered < all_of_them else ""
            log.info("%s%s", self.path, limited)
