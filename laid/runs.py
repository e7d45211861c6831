"""Where a run lies on disk, and what a checkpoint says of the run that made it.

runs/tiny/config.yaml             what was run
runs/tiny/checkpoints/step=50.ckpt
runs/tiny/records.jsonl           answers of `laid test`, entry by entry
runs/tiny/results.json            and their summary
runs/tiny/figures/*.png
runs/tiny/events.out.tfevents.*   TensorBoard
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

if TYPE_CHECKING:
    from lightning import Trainer

CHECKPOINTS = "checkpoints"
SUFFIX = ".ckpt"
EMBEDDED = "laid"
"""Key of a checkpoint under which the run's settings stand."""


@dataclass(frozen=True)
class Found:
    """A checkpoint and what it says of its run."""

    path: Path
    run: Path
    config: dict[str, Any]
    identity: dict[str, Any]


def find_checkpoint(given: str, runs: Path, name: str | None = None) -> Found:
    """The checkpoint that the user means.

    Args:
        given: a checkpoint; a run's folder, for its newest checkpoint; or ``last``, for the newest
            checkpoint under ``runs``.
        name: with ``last``, only runs of this name (``tiny``, ``tiny-2``, ...).

    Raises:
        ValueError: there is none, or it is not one of ours.
    """
    if given == "last":
        folders = [p for p in runs.glob("*") if p.is_dir() and _is_named(p.name, name)]
        candidates = [c for folder in folders for c in _checkpoints(folder)]
        if not candidates:
            which = f"of a run named {name!r} " if name else ""
            raise ValueError(f"--ckpt_path last: there is no checkpoint {which}under {runs}/")
    elif not Path(given).exists():
        raise ValueError(
            f"--ckpt_path {given}: no such file or folder; give a checkpoint ({SUFFIX}), a run's "
            "folder, or last"
        )
    elif Path(given).is_dir() and not _is_checkpoint(Path(given)):
        candidates = _checkpoints(Path(given))
        if not candidates:
            raise ValueError(f"--ckpt_path {given}: no checkpoint in {Path(given) / CHECKPOINTS}/")
    else:
        candidates = [Path(given)]
    path = max(candidates, key=lambda c: c.stat().st_mtime_ns)
    embedded = read_embedded(path)
    home = path.parent.parent if path.parent.name == CHECKPOINTS else path.parent
    return Found(path, home, yaml.safe_load(embedded["config"]), embedded["identity"])


def read_embedded(path: Path) -> dict[str, Any]:
    """What our ``RunCheckpoint`` wrote into a checkpoint, without reading its weights.

    Raises:
        ValueError: the file is damaged, or not a checkpoint of laid.
    """
    try:
        # Memory-mapped: of a 100 GB checkpoint only the pages that are looked at are read.
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as reason:
        raise ValueError(
            f"checkpoint {path} cannot be read: it is damaged or not a checkpoint"
        ) from reason
    except Exception as reason:  # torch's unpickler raises its own, unrelated classes
        raise ValueError(f"checkpoint {path} is not one that laid wrote: {reason}") from reason
    if not isinstance(content, dict) or EMBEDDED not in content:
        raise ValueError(
            f"checkpoint {path} is not one that laid wrote: it has no settings of a run in it"
        )
    return dict(content[EMBEDDED])


def run_folder(trainer: "Trainer") -> Path:
    """The folder of the run that a trainer trains: the one that its checkpoints' folder is in."""
    for callback in trainer.checkpoint_callbacks:
        dirpath = getattr(callback, "dirpath", None)
        if dirpath:
            return Path(dirpath).parent
    return Path(trainer.default_root_dir)


def new_run(runs: Path, name: str) -> Path:
    """A folder that is not taken: ``runs/name``, ``runs/name-2``, ...

    A folder with no checkpoint and no results in it (a run that failed at its start) counts as
    free.
    """
    folder, number = runs / name, 1
    while _is_taken(folder):
        number += 1
        folder = runs / f"{name}-{number}"
    return folder


def _is_taken(folder: Path) -> bool:
    return bool(_checkpoints(folder)) or (folder / "results.json").exists()


def _is_named(folder: str, name: str | None) -> bool:
    if name is None or folder == name:
        return True
    stem, _, number = folder.rpartition("-")
    return stem == name and number.isdigit()


def _is_checkpoint(path: Path) -> bool:
    return path.suffix == SUFFIX


def _checkpoints(run: Path) -> list[Path]:
    return [p for p in (run / CHECKPOINTS).glob(f"*{SUFFIX}") if not p.name.startswith(".")]
