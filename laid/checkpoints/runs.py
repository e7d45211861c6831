"""Where a run lies on disk, and what a checkpoint says of the run that made it.

runs/tiny/config.yaml             what was run
runs/tiny/checkpoints/step=50.ckpt  a file; of a sharded run a folder (laid/distributed)
runs/tiny/records.jsonl           answers of `laid test`, entry by entry
runs/tiny/results.json            and their summary
runs/tiny/figures/*.png
runs/tiny/events.out.tfevents.*   TensorBoard
"""

import logging
import os
import re
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from laid.common.atomic_files import discard_dir
from laid.common.errors import UserError
from laid.evaluation.results import Training

if TYPE_CHECKING:
    from lightning import Trainer

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
SUFFIX = ".ckpt"
EMBEDDED = "laid"
"""Key of a checkpoint under which the run's settings stand."""
FORMAT = 2
"""Of a checkpoint's keys and settings; raise it when an older checkpoint can't be read."""
META = "meta.pt"
"""Of a checkpoint that is a folder, the file with all but the tensors."""
FILES = "files"
"""In it, the key under which the sizes of the folder's other files stand."""


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
        UserError: there is none, or it is not one of ours.
    """
    path = Path(given)
    if given == "last":
        folders = [p for p in runs.glob("*") if p.is_dir() and _is_named(p.name, name)]
        newest = max(
            (c for folder in folders for c in _checkpoints(folder)),
            key=lambda c: c.stat().st_mtime_ns,
            default=None,
        )
        if newest is None:
            which = f"of a run named {name!r} " if name else ""
            raise UserError(f"--ckpt_path last: there is no checkpoint {which}under {runs}/")
        path = newest.parent.parent
    if not path.exists():
        raise UserError(
            f"--ckpt_path {given}: no such file or folder; give a checkpoint ({SUFFIX}), a run's "
            "folder, or last"
        )
    if path.is_dir() and path.suffix != SUFFIX:
        return _newest(path, given)
    home = path.parent.parent if path.parent.name == CHECKPOINTS else path.parent
    return _found(path, home)


def _newest(run: Path, given: str) -> Found:
    """A run's checkpoint of the highest step that can be read."""
    # By step, since copying a run may give its files any times; then by time.
    candidates = sorted(_checkpoints(run), key=lambda c: (_step(c), c.stat().st_mtime_ns))
    if not candidates:
        raise UserError(f"--ckpt_path {given}: no checkpoint in {run / CHECKPOINTS}/")
    for path in reversed(candidates):
        try:
            return _found(path, run)
        except UserError as reason:
            log.warning("%s; trying the one before it", reason)
    raise UserError(f"--ckpt_path {given}: none of its {len(candidates)} checkpoints can be read")


def _found(path: Path, run: Path) -> Found:
    embedded = read_embedded(path)
    return Found(path, run, yaml.safe_load(embedded["config"]), embedded["identity"])


def read_embedded(path: Path) -> dict[str, Any]:
    """What our ``RunCheckpoint`` wrote into a checkpoint, without reading its weights.

    Raises:
        UserError: the file is damaged, or not a checkpoint of laid.
    """
    try:
        # Memory-mapped: of a 100 GB checkpoint only the pages that are looked at are read.
        file = path / META if path.is_dir() else path
        content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        if path.is_dir():
            for name, size in content[FILES].items():
                if (path / name).stat().st_size != size:
                    raise UserError(f"{name} is not as it was written")
    except (OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as reason:
        raise UserError(
            f"checkpoint {path} cannot be read: it is damaged or not a checkpoint"
        ) from reason
    except Exception as reason:  # torch's unpickler raises its own, unrelated classes
        raise UserError(f"checkpoint {path} is not one that laid wrote: {reason}") from reason
    if not isinstance(content, dict) or EMBEDDED not in content:
        raise UserError(
            f"checkpoint {path} is not one that laid wrote: it has no settings of a run in it"
        )
    embedded = dict(content[EMBEDDED])
    if (found := embedded.get("format", 1)) != FORMAT:
        raise UserError(
            f"checkpoint {path} has format {found}, and this version of laid reads {FORMAT}: "
            "use the version of laid that wrote it, or train again"
        )
    return embedded


_TRAINER = ("max_epochs", "max_steps", "precision", "gradient_clip_val", "gradient_clip_algorithm")


def training_of(found: Found, folder: Path, without: Collection[str]) -> Training:
    """What results say of the training behind a checkpoint.

    Two checkpoints are seeds of one method when all of it is equal but the seed and the run.

    Args:
        found: the checkpoint.
        folder: where the results lie.
        without: settings of the data that do not decide what is learned.
    """
    config = found.config
    seed = config.get("seed_everything")
    data, trainer = config.get("data") or {}, config.get("trainer") or {}
    return Training(
        name=config.get("name"),
        seed=None if isinstance(seed, bool) else seed,
        run=os.path.relpath(found.run, folder),
        settings={
            "model": config.get("model"),
            "data": {k: v for k, v in data.items() if k not in without},
            "trainer": {k: trainer.get(k) for k in _TRAINER},
        },
    )


def run_folder(trainer: "Trainer") -> Path:
    """The folder of the run that a trainer trains: the one that its checkpoints' folder is in."""
    for callback in trainer.checkpoint_callbacks:
        dirpath = getattr(callback, "dirpath", None)
        if dirpath:
            return Path(dirpath).parent
    return Path(trainer.default_root_dir)


def claim_run(runs: Path, name: str) -> Path:
    """Makes a folder that is not taken and gives it: ``runs/name``, ``runs/name-2``, ...

    Two runs that begin at the same moment get two folders.

    Raises:
        UserError: the name is not that of a folder.
    """
    if not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise UserError(f"--name {name!r}: expected the name of a folder, such as tiny")
    for number in count(1):
        folder = runs / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError


def give_back_run(folder: Path) -> None:
    """Removes the folder of a run that failed before its first step."""
    if not _checkpoints(folder):
        discard_dir(folder)


def _is_named(folder: str, name: str | None) -> bool:
    if name is None or folder == name:
        return True
    stem, _, number = folder.rpartition("-")
    return stem == name and number.isdigit()


def _step(path: Path) -> int:
    found = re.search(r"step=(\d+)", path.name)
    return int(found[1]) if found else -1


def _checkpoints(run: Path) -> list[Path]:
    return [p for p in (run / CHECKPOINTS).glob(f"*{SUFFIX}") if not p.name.startswith(".")]
