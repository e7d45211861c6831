"""Where a command writes, and what results say of the model behind them."""

import os
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from laid.checkpoints.runs import Found, claim_run
from laid.common.first_rank import is_first_rank
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
    if config.model.lora is not None:
        student["lora"] = config.model.lora.as_dict()
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
