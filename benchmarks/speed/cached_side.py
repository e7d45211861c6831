"""laid's step with both caches: the teacher's signals on disk, vision features in memory.

By the commands themselves, since caches are theirs: ``laid cache`` once, then ``laid fit`` from it.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import fixture

from laid.cli.main import main
from laid.training.module import LaidModule

CACHED = "laid, both caches"
_ROWS, _SIGNALS = "rows.json", "signals"


def make_cache(folder: Path, images: int, steps: int) -> None:
    """Runs the teacher over a haystack a step, in a process of its own: its memory is not theirs.

    Args:
        steps: as ``cached_steps``, which has one before and one after them.
    """
    image = [fixture.name(number) for number in range(images)]
    turns = [{"from": "human", "value": fixture.QUESTION}, {"from": "gpt", "value": "Yes"}]
    row = {"conversations": turns, "pos_image": image[:1], "neg_image": image[1:]}
    (folder / _ROWS).write_text(json.dumps([row] * (steps + 2)))
    words = [sys.executable, "-m", "laid", "-q", "cache", *_settings(folder), "--out"]
    subprocess.run([*words, str(folder / _SIGNALS)], check=True)


def cached_steps(folder: Path, steps: int) -> list[float]:
    """Seconds from the end of a step to the end of the next, input included; without the first and
    the last, which is saved."""
    ends: list[float] = []
    LaidModule.on_train_batch_end = lambda *_: ends.append(time.process_time())  # type: ignore[method-assign]
    words = ["-q", "fit", *_settings(folder), "--model.teacher_source"]
    runs = ["--trainer.max_epochs", "1", "--trainer.default_root_dir", str(folder / "runs")]
    main([*words, f"cache:{folder / _SIGNALS}", *runs])
    return [end - begun for begun, end in pairwise(ends[: steps + 1])]


def _settings(folder: Path) -> Sequence[str]:
    rows = str(folder / _ROWS)
    return [
        "--model.student.path", str(folder / "student"), "--model.student.random_weights", "true",
        "--model.teacher.path", str(folder / "teacher"), "--model.teacher.random_weights", "true",
        "--model.objective.laid.weight", "0", "--model.objective.retrieval.weight", "0",
        "--model.objective.kl.weight", "0.3", "--model.objective.kl.temperature", "2",
        "--model.objective.sft.weight", "0.7", "--data.coco_root", str(folder),
        "--data.train.source", rows, "--data.validate.source", f"[{rows}]",
        "--data.cache_features", "true", "--data.workers", "0", "--data.global_batch_size", "1",
        "--trainer.limit_val_batches", "0", "--trainer.num_sanity_val_steps", "0",
        "--trainer.gradient_clip_val", "1", "--trainer.accelerator", "cpu",
        "--trainer.logger", "false", "--trainer.enable_progress_bar", "false",
        "--head_flow.enabled", "false",
    ]  # fmt: skip
