"""``laid fit | validate | test | predict``: LightningCLI, with runs that bring their settings."""

import logging
import shlex
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import lightning as L
import yaml
from jsonargparse import set_parsing_settings
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from laid.callbacks.checkpoint import RunCheckpoint
from laid.callbacks.global_batch import GlobalBatch
from laid.callbacks.head_flow import HeadFlow
from laid.callbacks.recorder import PredictionWriter, TestRecorder
from laid.callbacks.throughput import Throughput
from laid.data.datamodule import HaystackDataModule
from laid.files import atomic_write_text
from laid.module import LaidModule
from laid.runs import CHECKPOINTS, Found, find_checkpoint, new_run

RUNS = "runs"
OF_THE_RUN = ("seed_everything", "name", "model", "data")
"""What a checkpoint's run lays down for testing it, with its precision; to resume, everything."""


def run(argv: list[str]) -> None:
    """Runs one of Lightning's commands.

    Args:
        argv: the command line, beginning with the command.

    Raises:
        ValueError: something that the user gave does not fit; the message says how to mend it.
    """
    # The docstrings beneath a dataclass's attributes are its --help.
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    _quiet()
    command, typed = argv[0], argv[1:]
    given = _option(typed, "--ckpt_path")
    if given is None:
        LaidCLI(argv, None)
        return
    runs = Path(_option(typed, "--trainer.default_root_dir") or RUNS)
    found = find_checkpoint(given, runs, _option(typed, "--name") or _name_in_configs(typed))
    print(f"laid: checkpoint {found.path}")
    settings = found.config
    if command != "fit":
        precision = settings["trainer"]["precision"]
        settings = {key: settings[key] for key in OF_THE_RUN}
        settings["trainer"] = {"precision": precision}
    with tempfile.TemporaryDirectory() as folder:
        # The run's settings come first, so that whatever is typed goes over them. The same for a
        # checkpoint that is a file and one that is a folder, of which LightningCLI reads only the
        # first.
        stored = Path(folder) / "run.yaml"
        stored.write_text(yaml.safe_dump(settings), encoding="utf-8")
        LaidCLI([command, "--config", str(stored), *typed], found)


class LaidCLI(LightningCLI):
    """LightningCLI with our run folders and callbacks."""

    def __init__(self, argv: list[str], found: Found | None):
        self.argv = argv
        self.found = found
        # LightningCLI warns when both `args` and sys.argv are there.
        program, sys.argv = sys.argv, sys.argv[:1]
        try:
            super().__init__(
                model_class=LaidModule,
                datamodule_class=HaystackDataModule,
                save_config_callback=None,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                args=argv,
            )
        finally:
            sys.argv = program

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--name", type=str, default="laid", help="The run's folder is named after it."
        )
        parser.add_argument(
            "--results",
            type=str | None,
            default=None,
            help="Folder for what test and predict write. Default: the run's, or runs/NAME-base "
            "without a checkpoint.",
        )
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(HeadFlow, "head_flow")
        parser.set_defaults({"checkpoint.filename": "{step}", "checkpoint.every_n_train_steps": 50})
        parser.link_arguments("model.student.path", "data.processor")

    def _parse_ckpt_path(self) -> None:
        # What Lightning does here for checkpoint files, `run` has done for files and folders.
        if self.found is None:
            return
        config = self.config[self.config.subcommand]
        config["ckpt_path"] = str(self.found.path)
        now = yaml.safe_load(self._parser(self.config.subcommand).dump(config, skip_unset=False))
        for key, before, after in _changes(self.found.config, now):
            of_run = key.split(".")[0] in OF_THE_RUN or key == "trainer.precision"
            if of_run or self.config.subcommand == "fit":
                print(f"laid: {key} {after!r} instead of the run's {before!r}")

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        runs = Path(config.trainer.default_root_dir or RUNS)
        if config.results is not None:
            self.folder = Path(config.results)
        elif self.found is not None:
            self.folder = self.found.run
        elif self.subcommand == "fit":
            self.folder = new_run(runs, config.name)
        else:
            self.folder = runs / f"{config.name}-base"
        config.trainer.default_root_dir = str(runs)
        if config.checkpoint.dirpath is None:
            config.checkpoint.dirpath = str(self.folder / CHECKPOINTS)
        dumped = self._parser(self.subcommand).dump(config, skip_unset=False)
        kept = yaml.safe_load(dumped)
        for key in ("config", "ckpt_path", "results"):
            kept.pop(key, None)
        # It belongs to the folder, which may be moved; and a resumed run finds its own.
        kept["checkpoint"]["dirpath"] = None
        self.settings = yaml.safe_dump(kept, sort_keys=False)

    def instantiate_trainer(self, **options: Any) -> L.Trainer:
        config = self.config_init[self.subcommand]
        logger = config.trainer.logger
        if logger is None or logger is True:
            # What was logged after the checkpoint is about to be logged again.
            purge = None
            if self.subcommand == "fit" and self.found is not None:
                purge = self.found.identity["step"] + 1
            options["logger"] = TensorBoardLogger(
                self.folder.parent,
                self.folder.name,
                version="",
                default_hp_metric=False,
                purge_step=purge,
            )
        if config.trainer.callbacks is None:
            config.trainer.callbacks = []
        config.trainer.callbacks += self._callbacks(has_logger=logger is not False)
        return super().instantiate_trainer(use_distributed_sampler=False, **options)

    def _callbacks(self, has_logger: bool) -> list[L.Callback]:
        if self.subcommand == "fit":
            rates = [LearningRateMonitor("step")] if has_logger else []
            return [GlobalBatch(), Throughput(), *rates]
        if self.subcommand == "test":
            based = self.found is None and self.config.test.results is None
            return [
                TestRecorder(
                    self.folder,
                    name="base" if based else self.folder.name,
                    command=shlex.join(["laid", self.subcommand, *_typed(self.argv)]),
                    seed=self.config.test.data.seed,
                    identity=self._identity(),
                )
            ]
        return [PredictionWriter(self.folder)] if self.subcommand == "predict" else []

    def _identity(self) -> dict[str, Any]:
        """What decides an answer, but for the entries."""
        config = self.config.test
        data, student = config.data, config.model.student.as_dict()
        if self.found:
            # The checkpoint's weights replace those of the path.
            student = {k: v for k, v in student.items() if k not in ("seed", "random_weights")}
        return {
            "checkpoint": self.found.identity if self.found else None,
            "student": student,
            "precision": str(config.trainer.precision),
            "max_new_tokens": config.model.max_new_tokens,
            "prefix": data.prefix,
            "pixels": [data.min_pixels, data.max_pixels],
        }

    def before_fit(self) -> None:
        callback = next(c for c in self.trainer.callbacks if isinstance(c, RunCheckpoint))
        callback.config = self.settings
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:
            atomic_write_text(self.folder / "config.yaml", self.settings)
            print(f"laid: run {self.folder}")

    def after_fit(self) -> None:
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:
            print(f"laid: to test it: laid test --ckpt_path {self.folder}")


def _quiet() -> None:
    """Leaves out messages that tell the user of laid nothing."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(lambda record: "Tip:" not in record.getMessage())
    for message in (
        # A run's folder is made before, and a resumed run has checkpoints in its own.
        "Checkpoint directory .* exists and is not empty",
        # Ours is; Lightning looks for it in the loader, we keep it in the data module.
        "You're resuming from a checkpoint .* dataloader is not resumable",
        # Lightning's own, with the torch of today.
        ".*treespec, LeafSpec.*",
        # The miniature wants one worker; how many are best is the user's to measure.
        "The '.*_dataloader' does not have many workers",
    ):
        warnings.filterwarnings("ignore", message)
    datasets.disable_progress_bars()


def _option(typed: list[str], name: str) -> str | None:
    """The last value that was typed for an option, as ``--name value`` or ``--name=value``."""
    value = None
    for at, word in enumerate(typed):
        if word == name and at + 1 < len(typed):
            value = typed[at + 1]
        elif word.startswith(f"{name}="):
            value = word.split("=", 1)[1]
    return value


def _name_in_configs(typed: list[str]) -> str | None:
    """The run's name in the last ``--config`` that gives one."""
    name = None
    for at, word in enumerate(typed):
        follows = word in ("--config", "-c") and at + 1 < len(typed)
        path = typed[at + 1] if follows else word.removeprefix("--config=")
        if (follows or word.startswith("--config=")) and Path(path).is_file():
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            name = content.get("name", name) if isinstance(content, dict) else name
    return name


def _typed(argv: list[str]) -> list[str]:
    """The command line as the user typed it, without the settings that ``run`` put before it."""
    if argv[1:2] == ["--config"] and Path(argv[2]).name == "run.yaml":
        return argv[3:]
    return argv[1:]


def _changes(before: Any, after: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Keys whose value is another than before, in dots; what is on one side only is passed over,
    since versions of laid may know different keys."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before.keys() & after.keys():
            yield from _changes(before[name], after[name], f"{key}.{name}" if key else name)
    elif before != after:
        yield key, before, after
