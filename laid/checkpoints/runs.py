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
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laid.checkpoints.checkpoint_files import read_meta, refusing_damage
from laid.checkpoints.trusted_settings import trusted_settings
from laid.common.atomic_files import discard, sweep
from laid.common.errors import UserError
from laid.common.yaml_text import load_yaml
from laid.evaluation.results import Training

if TYPE_CHECKING:
    from lightning import Trainer

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
SUFFIX = ".ckpt"
EMBEDDED = "laid"
"""Key of a checkpoint under which the run's settings stand."""
FORMAT = 3
"""Of a checkpoint's keys and settings; raise it when an older checkpoint can't be read."""
_OTHERS = "%s; looking at the others"


@dataclass(frozen=True)
class Found:
    """A checkpoint and what it says of its run."""

    path: Path
    run: Path
    config: dict[str, Any]
    identity: dict[str, Any]
    left_out: tuple[str, ...] = ()
    """Settings that it has and that are not trusted."""


def find_checkpoint(given: str, runs: Path, name: str | None = None) -> Found:
    """The checkpoint that the user means.

    Args:
        given: a checkpoint; a run's folder, for its newest checkpoint; or ``last``, for the newest
            checkpoint under ``runs``.
        name: with ``last``, only runs of this name (``tiny``, ``tiny-2``, ...).

    Raises:
        UserError: there is none, or it is not one of ours.
    """
    found = _find(given, runs, name)
    if found.left_out:
        log.warning(
            "%s of the checkpoint's settings not used: classes and folders are taken from the "
            "command line and --config alone",
            ", ".join(found.left_out),
        )
    return found


def _find(given: str, runs: Path, name: str | None) -> Found:
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
    """A run's newest checkpoint that can be read: of its last fit, that of the highest step.

    A run that was resumed from an older checkpoint has later steps of the branch that was left.
    """
    candidates = _checkpoints(run)
    if not candidates:
        raise UserError(f"--ckpt_path {given}: no checkpoint in {run / CHECKPOINTS}/")
    places = {}
    for path in candidates:
        try:
            identity = read_embedded(path)["identity"]
        except UserError as reason:
            log.warning(_OTHERS, reason)
        else:
            # By what they say of themselves, since copying a run may give its files any times.
            places[path] = identity["fit"], identity["step"], path.stat().st_mtime_ns
    for path in sorted(places, key=places.__getitem__, reverse=True):
        try:
            return _found(path, run)
        except UserError as reason:
            log.warning(_OTHERS, reason)
    raise UserError(f"--ckpt_path {given}: none of its {len(candidates)} checkpoints can be read")


def next_fit(checkpoints: Path) -> int:
    """The number of a fit that begins: one more than that of the last with a checkpoint here."""
    numbers = [-1]
    for path in _checkpoints(checkpoints.parent):
        with suppress(UserError):
            numbers.append(read_embedded(path)["identity"]["fit"])
    return max(numbers) + 1


def _found(path: Path, run: Path) -> Found:
    embedded = read_embedded(path)
    with refusing_damage(path):
        config, left_out = trusted_settings(load_yaml(embedded["config"], "its settings"))
    return Found(path, run, config, embedded["identity"], tuple(left_out))


def read_embedded(path: Path) -> dict[str, Any]:
    """What our ``RunCheckpoint`` wrote into a checkpoint, without reading its weights.

    Raises:
        UserError: the file is damaged, or not a checkpoint of laid.
    """
    content = read_meta(path)
    with refusing_damage(path):
        if EMBEDDED not in content:
            raise UserError("it is not one that laid wrote: it has no settings of a run in it")
        embedded = content[EMBEDDED]
        if (found := embedded.get("format", 1)) != FORMAT:
            raise UserError(
                f"it has format {found}, and this version of laid reads {FORMAT}: use the version "
                "of laid that wrote it, or train again"
            )
        identity = {"fit": 0, **embedded["identity"]}
        if not all(type(identity[key]) is int for key in ("fit", "step")):
            raise UserError("its fit and step are no whole numbers")
        return {"config": str(embedded["config"]), "identity": identity}


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
    model = dict(config.get("model") or {})
    # The signals are the same wherever they come from, if they are stored as the teacher's own.
    model.pop("teacher_source", None)
    if model.get("teacher_stored_as") == "teacher":
        del model["teacher_stored_as"]
    return Training(
        name=config.get("name"),
        seed=None if isinstance(seed, bool) else seed,
        run=os.path.relpath(found.run, folder),
        settings={
            "model": model,
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


def check_name(name: str) -> None:
    """Refuses a run's name that is not that of a folder.

    Raises:
        UserError: it is empty, or leads elsewhere.
    """
    if not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise UserError(f"--name {name!r}: expected the name of a folder, such as tiny")


def claim_run(runs: Path, name: str) -> Path:
    """Makes a folder that is not taken and gives it: ``runs/name``, ``runs/name-2``, ...

    Two runs that begin at the same moment get two folders.

    Raises:
        UserError: the name is not that of a folder.
    """
    check_name(name)
    for number in count(1):
        folder = runs / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError


def remove_failed_run(folder: Path) -> None:
    """Removes the folder of a run that failed before its first step."""
    if not _checkpoints(folder):
        discard(folder)


def _is_named(folder: str, name: str | None) -> bool:
    if name is None or folder == name:
        return True
    stem, _, number = folder.rpartition("-")
    return stem == name and number.isdigit()


def _checkpoints(run: Path) -> list[Path]:
    with suppress(OSError):  # one that was being replaced when its process died is given back
        sweep(run / CHECKPOINTS)
    return [p for p in (run / CHECKPOINTS).glob(f"*{SUFFIX}") if not p.name.startswith(".")]
