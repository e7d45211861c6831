"""Where a command writes, and what results say of the model behind them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from laid.checkpoints.runs import CHECKPOINTS, Found, claim_run, remove_failed_run
from laid.common.first_rank import is_first_rank
from laid.evaluation.records import RECORDS
from laid.settings.run_settings import RUNS
from laid.vlm.model_paths import settings_hashes, weights_fingerprint
from laid.vlm.window_extension import describe

FOLDER = "LAID_RUN_FOLDER"
"""Environment variable in which the first process of a run gives the others its folder."""


def output_folder(command: str, config: Namespace, found: Found | None) -> Path:
    """The folder that a command writes to; a new run's is made here."""
    if config.get("results") is not None:
        return Path(config.results)
    if found is not None:
        return found.run.with_name(found.run.name + extended(config))
    runs = Path(config.trainer.default_root_dir or RUNS)
    if command != "fit":
        return runs / f"{config.name}-base{extended(config)}"
    if is_first_rank():
        return claim_run(runs, config.name)
    # Ranks that torchrun starts side by side don't know it; they write nothing there either.
    return Path(os.environ.get(FOLDER, runs / config.name))


@contextmanager
def clean_up_on_failure(folder: Path, new: bool, begun: Callable[[], bool]) -> Iterator[None]:
    """Removes what a command has written that fails before it has done anything.

    Args:
        new: whether the folder was made for this command, and goes too.
        begun: whether anything was done that is to stay, besides checkpoints.
    """
    before = {*folder.glob("*"), *folder.glob(f"{CHECKPOINTS}/*")}
    try:
        yield
    except BaseException:
        saved = set(folder.glob(f"{CHECKPOINTS}/[!.]*")) - before
        if is_first_rank() and not saved and not begun():
            for path in set(folder.glob("*")) - before:
                if _is_empty(path):
                    path.unlink()
            with suppress(OSError):  # it holds something
                folder.rmdir()
            if new:
                remove_failed_run(folder)
        raise


def _is_empty(path: Path) -> bool:
    """Whether a file is the logger's, or has no record in it."""
    if path.name == RECORDS:
        return path.read_bytes().count(b"\n") <= 1  # a header
    return path.name == "hparams.yaml" or path.name.startswith("events.out.tfevents.")


def results_name(config: Namespace, found: Found | None, folder: Path) -> str:
    """What tables call the tested model."""
    if found is None and config.results is None:
        return f"base{extended(config)}"
    return folder.name


def extended(config: Namespace) -> str:
    """What a window extension adds to a name: with it, the results are another model's."""
    extension = config.model.window_extension
    return "" if extension == "none" else f"-{extension}"


def model_identity(config: Namespace, found: Found | None) -> dict[str, Any]:
    """Everything that decides an answer, but for the entries."""
    data, student = config.data, config.model.student.as_dict()
    path, revision = student["path"], student["revision"]
    files, weights = {"files": settings_hashes(path, revision)}, None
    if (data.processor, data.revision) != (path, revision):
        files["processor"] = settings_hashes(data.processor, data.revision)
    if found and config.model.lora is None:
        # The checkpoint's weights replace those of the path; adapters are added to them.
        student = {k: v for k, v in student.items() if k not in ("seed", "random_weights")}
    elif not student["random_weights"]:
        weights = weights_fingerprint(path, revision)
    for added in ("lora", "rope_gain"):
        if config.model[added] is not None:
            student[added] = config.model[added].as_dict()
    return {
        "checkpoint": found.identity if found else None,
        "student": student,
        "weights": weights,
        **files,
        "precision": str(config.trainer.precision),
        "max_new_tokens": config.model.max_new_tokens,
        **describe(config.model.as_dict()),
        "prefix": data.prefix,
        "pixels": [data.min_pixels, data.max_pixels],
    }
