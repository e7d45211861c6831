"""Accuracy of a tiny model, by laid's own validation."""

from collections.abc import Sequence
from pathlib import Path

import lightning as L

from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import EvaluationArgs
from laid.training.module import LaidModule
from laid.vlm.model_loading import ModelArgs


def measure(
    folder: Path, root: Path, split: str, sizes: Sequence[int], per_size: int, seed: int
) -> dict[int, float]:
    """Share of right answers by haystack size, of the model in ``folder`` on ``per_size`` entries
    of each size that are built with ``seed`` from a split of the mini-COCO ``root``."""
    entries = EvaluationArgs(split=split, sizes=list(sizes), per_size=per_size)
    data = HaystackDataModule(
        coco_root=str(root),
        processor=str(folder),
        validate=entries,
        prefix="",
        cache_features=True,
        eval_batch_size=8,
        workers=0,
        seed=seed,
    )
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module = LaidModule(ModelArgs(str(folder)), max_new_tokens=4)
    (logged,) = trainer.validate(module, data, verbose=False)
    return {size: float(logged[f"val/accuracy_{size}"]) for size in sizes}
