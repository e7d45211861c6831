"""``laid fit | validate | test | predict``: Lightning's Trainer, on settings and checkpoints."""

import argparse
import logging
import os
import shlex
import signal
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse import Namespace
from lightning.pytorch.loggers import TensorBoardLogger

from laid.callbacks.prediction_writer import PredictionWriter
from laid.callbacks.run_messages import RunMessages
from laid.callbacks.test_recorder import TestRecorder
from laid.checkpoints.checkpoint_io import AtomicCheckpointIO
from laid.checkpoints.runs import CHECKPOINTS, training_of
from laid.cli.run_output import (
    FOLDER,
    clean_up_on_failure,
    model_identity,
    output_folder,
    results_name,
)
from laid.common.atomic_files import only_writer
from laid.common.errors import UserError
from laid.common.first_rank import is_first_rank
from laid.common.stopping import Stopped
from laid.data.datamodule import HaystackDataModule
from laid.settings.run_settings import (
    RUNS,
    Given,
    SettingsParser,
    plain,
    read_settings,
    settings_parser,
)

log = logging.getLogger(__name__)

OF_THE_RUN = ("seed_everything", "name", "model", "data")
"""Settings of a checkpoint's run that hold for testing it, with its precision; to resume it, all
do."""


def run(command: str, words: list[str]) -> None:
    """Runs one of Lightning's commands.

    Args:
        command: fit, validate, test or predict.
        words: the command line after it.

    Raises:
        UserError: something that the user gave does not fit; the message says how to fix it.
    """
    parser = settings_parser(f"laid {command}")
    _add_options(parser, command)
    given = read_settings(parser, words, partial(_of_run, command))
    config, found = given.config, given.found
    if found is not None:
        log.info("checkpoint %s", found.path)
    _log_overrides(command, given.overrides(parser))
    if config.seed_everything is not False:
        L.seed_everything(config.seed_everything, workers=True)
    if command in ("test", "predict") and config.trainer.devices == "auto":
        config.trainer.devices = 1
    config.trainer.default_root_dir = config.trainer.default_root_dir or RUNS
    folder = output_folder(command, config, found)
    trainer: L.Trainer | None = None

    def begun() -> bool:
        # Some settings, as checkpoint.monitor, can be checked after one step only.
        first = 1 + (found.identity["step"] if found is not None else 0)
        return command == "fit" and trainer is not None and trainer.global_step > first

    # A run's folder is its own; that of a test may be named by two commands at once.
    shared = command == "test" and is_first_rank()
    try:
        with (
            only_writer(folder) if shared else nullcontext(),
            clean_up_on_failure(folder, command == "fit" and found is None, begun),
        ):
            settings = _kept(parser, config)
            # Not in the settings: it belongs to the folder, which may be moved.
            config.checkpoint.dirpath = str(folder / CHECKPOINTS)
            made = parser.instantiate(config)
            trainer = _trainer(command, words, given, made, folder)
            if command == "fit":
                _fit(trainer, made, given, settings, folder)
            else:
                more = {"return_predictions": False} if command == "predict" else {}
                work = getattr(trainer, command)
                work(made.model, datamodule=made.data, ckpt_path=config.ckpt_path, **more)
    except Stopped as stop:
        if stop.at_once and trainer is not None and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)  # the ranks that this one has started
        stop.advice = _advice(command, words, folder)
        raise


fit, validate, test, predict = (
    partial(run, command) for command in ("fit", "validate", "test", "predict")
)


def _advice(command: str, words: list[str], folder: Path) -> str:
    """How to go on with what was stopped."""
    again = ["laid", command, *words]
    if command == "fit":
        if not any((folder / CHECKPOINTS).glob("[!.]*")):
            return "No checkpoint was written yet"
        options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        options.add_argument("--ckpt_path")
        _, rest = options.parse_known_args(words)
        again = ["laid", "fit", *rest, "--ckpt_path", str(folder)]
    goes_on = command in ("fit", "test")
    return f"To {'resume' if goes_on else 'begin again'}: {shlex.join(again)}"


def _add_options(parser: SettingsParser, command: str) -> None:
    parser.add_argument(
        "--ckpt_path",
        type=str | None,
        default=None,
        help="A checkpoint; a run's folder, for its newest checkpoint; or last, for the newest "
        "under --trainer.default_root_dir, of the runs named --name if that is given. Brings its "
        "run's settings.",
    )
    if command in ("test", "predict"):
        parser.add_argument(
            "--results",
            type=str | None,
            default=None,
            help="Folder to write to. Default: the run's, or runs/NAME-base without a checkpoint; "
            "with a window extension, its name is added.",
        )


def _of_run(command: str, settings: dict[str, Any]) -> dict[str, Any]:
    if command == "fit":
        return settings
    precision = settings["trainer"]["precision"]
    return {**{key: settings[key] for key in OF_THE_RUN}, "trainer": {"precision": precision}}


def _log_overrides(command: str, overrides: dict[str, tuple[Any, Any]]) -> None:
    for key, (before, now) in overrides.items():
        if key == "data.global_batch_size" and command == "fit":
            raise UserError(
                f"{key} {now}: the run was begun with {before}, and its steps are counted in "
                "that; begin a new run to change it"
            )
        of_run = key.split(".")[0] in OF_THE_RUN or key == "trainer.precision"
        if of_run or command == "fit":
            log.info("%s %r instead of the run's %r", key, now, before)


def _kept(parser: SettingsParser, config: Namespace) -> str:
    """The settings that a run is resumed with, as YAML."""
    kept = plain(parser, config)
    for key in ("config", "ckpt_path", "results"):
        kept.pop(key, None)
    kept["trainer"].pop("accumulate_grad_batches")  # which a configuration may not give
    return yaml.safe_dump(kept, sort_keys=False)


def _trainer(
    command: str, words: list[str], given: Given, made: Namespace, folder: Path
) -> L.Trainer:
    options = dict(vars(made.trainer))
    if options["logger"] is None or options["logger"] is True:
        # What was logged after the checkpoint is about to be logged again.
        resumed = given.found if command == "fit" else None
        options["logger"] = TensorBoardLogger(
            folder.parent,
            folder.name,
            version="",
            default_hp_metric=False,
            purge_step=resumed.identity["step"] + 1 if resumed else None,
        )
    options["callbacks"] = [
        *_listed(options["callbacks"]),
        *_writers(command, words, given, folder),
        made.checkpoint,
        made.head_flow,
        made.spectrum,
    ]
    reader = AtomicCheckpointIO(with_optimizer=command == "fit")
    options["plugins"] = [*_listed(options["plugins"]), reader]
    return trainer_of(options)


def trainer_of(options: dict[str, Any]) -> L.Trainer:
    """Lightning's Trainer.

    Raises:
        UserError: a strategy, precision or interval that is none.
    """
    try:
        return L.Trainer(**options)
    except (ValueError, TypeError) as reason:
        raise UserError(f"trainer: {reason}") from reason


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _writers(command: str, words: list[str], given: Given, folder: Path) -> list[L.Callback]:
    config, found = given.config, given.found
    if command == "fit":
        return [RunMessages()]
    if command == "predict":
        return [PredictionWriter(folder)]
    if command != "test":
        return []
    return [
        TestRecorder(
            folder,
            name=results_name(config, found, folder),
            command=shlex.join(["laid", "test", *words]),
            seed=config.data.seed,
            identity=partial(model_identity, config, found),
            training=training_of(found, folder, HaystackDataModule.NOT_LEARNED) if found else None,
        )
    ]


def _fit(trainer: L.Trainer, made: Namespace, given: Given, settings: str, folder: Path) -> None:
    made.checkpoint.config = settings
    if given.found is not None:
        made.checkpoint.begin_after(given.found.identity["step"])
    writes = trainer.is_global_zero and not trainer.fast_dev_run
    if writes:
        log.info("run %s", folder)
    os.environ[FOLDER] = str(folder)
    try:
        trainer.fit(made.model, datamodule=made.data, ckpt_path=given.config.ckpt_path)
    except ValueError as reason:
        if "`val_check_interval`" in str(reason):  # known only when the batches are counted
            raise UserError(f"trainer: {str(reason).strip()}") from reason
        raise
    finally:
        del os.environ[FOLDER]
    if writes and trainer.global_step:
        log.info("to test it: laid test --ckpt_path %s", folder)
