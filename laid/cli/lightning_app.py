"""``laid fit | validate | test | predict``: LightningCLI, with runs that bring their settings."""

import os
import shlex
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse import set_parsing_settings
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from laid.callbacks.head_flow import HeadFlow
from laid.callbacks.test_recorder import PredictionWriter, TestRecorder
from laid.checkpoints.checkpoint_callback import RunCheckpoint
from laid.checkpoints.checkpoint_io import AtomicCheckpointIO
from laid.checkpoints.runs import (
    CHECKPOINTS,
    Found,
    claim_run,
    find_checkpoint,
    give_back_run,
    training_of,
)
from laid.cli.typed_settings import changes, configs_first, order_seed, refuse_unused, typed_value
from laid.common.atomic_files import atomic_write_text
from laid.common.errors import UserError
from laid.common.library_noise import quiet
from laid.data.datamodule import HaystackDataModule
from laid.training import sharded_strategy  # --trainer.strategy laid_fsdp
from laid.training.module import LaidModule
from laid.vlm.model_paths import weights_fingerprint
from laid.vlm.window_extension import describe

RUNS = "runs"
OF_THE_RUN = ("seed_everything", "name", "model", "data")
"""What a checkpoint's run lays down for testing it, with its precision; to resume, everything."""
OPTIONS: dict[str, Any] = {
    "datamodule_class": HaystackDataModule,
    "save_config_callback": None,
    "seed_everything_default": 0,
    "auto_configure_optimizers": False,
    "load_from_checkpoint_support": False,
}
"""Of LightningCLI, for all of our commands."""
FOLDER = "LAID_RUN_FOLDER"
"""Environment variable by which the first process of a run tells the others its folder."""


def run(argv: list[str]) -> None:
    """Runs one of Lightning's commands.

    Args:
        argv: the command line, beginning with the command.

    Raises:
        UserError: something that the user gave does not fit; the message says how to mend it.
    """
    # The docstrings beneath a dataclass's attributes are its --help.
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    quiet()
    command, typed = argv[0], configs_first(argv[1:])
    given = typed_value(typed, "ckpt_path")
    if given is None:
        LaidCLI(command, typed, None)
        return
    runs = Path(typed_value(typed, "trainer.default_root_dir") or RUNS)
    found = find_checkpoint(given, runs, typed_value(typed, "name"))
    _say(f"checkpoint {found.path}")
    LaidCLI(command, typed, found)


class LaidCLI(LightningCLI):
    """LightningCLI with our run folders and callbacks."""

    def __init__(self, command: str, typed: list[str], found: Found | None):
        self.command = command
        self.typed = typed
        self.found = found
        with tempfile.TemporaryDirectory() as folder:
            super().__init__(
                model_class=LaidModule,
                **OPTIONS,
                args=[command, *self._of_the_run(Path(folder)), *typed],
            )

    def _of_the_run(self, folder: Path) -> list[str]:
        """A first ``--config`` with the checkpoint's settings, over which goes whatever is typed.

        The same for a checkpoint that is a file and one that is a folder; LightningCLI reads the
        first only, and lets it override what is typed.
        """
        if self.found is None:
            return []
        settings = self.found.config
        if self.command != "fit":
            precision = settings["trainer"]["precision"]
            settings = {key: settings[key] for key in OF_THE_RUN}
            settings["trainer"] = {"precision": precision}
        path = folder / "run.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return ["--config", str(path)]

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--name", type=str, default="laid", help="The run's folder is named after it."
        )
        parser.add_argument(
            "--results",
            type=str | None,
            default=None,
            help="Folder for what test and predict write. Default: the run's, or runs/NAME-base "
            "without a checkpoint; with a window extension, its name is added.",
        )
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(HeadFlow, "head_flow")
        parser.set_defaults(
            {
                "checkpoint.filename": "{step}",
                "checkpoint.every_n_train_steps": 50,
                "trainer.use_distributed_sampler": False,
            }
        )
        parser.link_arguments("model.student.path", "data.processor")
        parser.link_arguments("model.student.revision", "data.revision")
        parser.link_arguments("seed_everything", "data.order_seed", compute_fn=order_seed)

    def _parse_ckpt_path(self) -> None:
        # What Lightning does here for checkpoint files, `_of_the_run` does for files and folders.
        config = self.config[self.config.subcommand]
        if self.found is None:
            if config["ckpt_path"] is not None:
                raise UserError("ckpt_path: type it, `--ckpt_path …`, rather than in a YAML file")
            return
        config["ckpt_path"] = str(self.found.path)
        now = yaml.safe_load(self._parser(self.config.subcommand).dump(config, skip_unset=False))
        for key, before, after in changes(self.found.config, now):
            if key == "data.global_batch_size" and self.config.subcommand == "fit":
                raise UserError(
                    f"{key} {after}: the run was laid out for {before}, and its steps are counted "
                    "in that; begin a new run to change it"
                )
            of_run = key.split(".")[0] in OF_THE_RUN or key == "trainer.precision"
            if of_run or self.config.subcommand == "fit":
                _say(f"{key} {after!r} instead of the run's {before!r}")

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        self._refuse(config)
        if self.subcommand in ("test", "predict") and config.trainer.devices == "auto":
            config.trainer.devices = 1
        runs = Path(config.trainer.default_root_dir or RUNS)
        config.trainer.default_root_dir = str(runs)
        self.folder = self._choose_folder(runs, config.name)
        dumped = self._parser(self.subcommand).dump(config, skip_unset=False)
        kept = yaml.safe_load(dumped)
        for key in ("config", "ckpt_path", "results", "weights_only"):
            kept.pop(key, None)
        kept["trainer"].pop("accumulate_grad_batches")  # which a configuration may not say
        self.settings = yaml.safe_dump(kept, sort_keys=False)
        # Not in the settings: it belongs to the folder, which may be moved.
        config.checkpoint.dirpath = str(self.folder / CHECKPOINTS)

    def _refuse(self, config: Any) -> None:
        """Settings of Lightning's that laid decides itself."""
        if config.checkpoint.dirpath is not None:
            raise UserError(
                "checkpoint.dirpath: checkpoints are in the run's folder; choose that with --name "
                "and --trainer.default_root_dir"
            )
        if config.trainer.use_distributed_sampler:
            raise UserError(
                "trainer.use_distributed_sampler: laid deals haystacks out to the devices itself"
            )
        # Asked here as well, since Lightning makes bf16-mixed of 16-mixed on a CPU.
        if config.trainer.strategy == sharded_strategy.NAME:
            sharded_strategy.refuse_float16(config.trainer.precision)
        if typed_value(self.typed, "trainer.accumulate_grad_batches") is not None:
            raise UserError(
                "trainer.accumulate_grad_batches follows from data.global_batch_size, "
                "data.batch_size and the number of devices: set these"
            )
        refuse_unused(self.typed, config.data)
        if config.results is not None and self.subcommand not in ("test", "predict"):
            raise UserError("--results is for test and predict; a run is named with --name")

    def _choose_folder(self, runs: Path, name: str) -> Path:
        config = self.config[self.subcommand]
        if config.results is not None:
            return Path(config.results)
        if self.found is not None:
            run = self.found.run
            return run.with_name(run.name + self._extended()) if self._extended() else run
        if self.subcommand != "fit":
            return runs / f"{name}-base{self._extended()}"
        if _is_first():
            return claim_run(runs, name)
        # Ranks that torchrun starts side by side are not told; they write nothing there either.
        return Path(os.environ.get(FOLDER, runs / name))

    def _extended(self) -> str:
        """What a window extension adds to a name: with it, the results are another model's."""
        extension = self.config[self.subcommand].model.window_extension
        return "" if extension == "none" else f"-{extension}"

    def instantiate_trainer(self, **options: Any) -> L.Trainer:
        config = self.config_init[self.subcommand]
        if config.trainer.logger is None or config.trainer.logger is True:
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
        config.trainer.callbacks += self._callbacks()
        plugins = config.trainer.plugins or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        reader = AtomicCheckpointIO(with_optimizer=self.subcommand == "fit")
        return super().instantiate_trainer(plugins=[*plugins, reader], **options)

    def _callbacks(self) -> list[L.Callback]:
        if self.subcommand == "test":
            based = self.found is None and self.config.test.results is None
            return [
                TestRecorder(
                    self.folder,
                    name=f"base{self._extended()}" if based else self.folder.name,
                    command=shlex.join(["laid", "test", *self.typed]),
                    seed=self.config.test.data.seed,
                    identity=self._identity(),
                    training=training_of(self.found, self.folder) if self.found else None,
                )
            ]
        return [PredictionWriter(self.folder)] if self.subcommand == "predict" else []

    def _identity(self) -> dict[str, Any]:
        """What decides an answer, but for the entries."""
        config = self.config.test
        data, student = config.data, config.model.student.as_dict()
        weights = None
        if self.found and config.model.lora is None:
            # The checkpoint's weights replace those of the path; adapters stand on them.
            student = {k: v for k, v in student.items() if k not in ("seed", "random_weights")}
        elif not student["random_weights"]:
            weights = weights_fingerprint(student["path"], student["revision"])
        if config.model.lora is not None:
            student["lora"] = config.model.lora.as_dict()
        return {
            "checkpoint": self.found.identity if self.found else None,
            "student": student,
            "weights": weights,
            "precision": str(config.trainer.precision),
            "max_new_tokens": config.model.max_new_tokens,
            **describe(config.model.as_dict()),
            "prefix": data.prefix,
            "pixels": [data.min_pixels, data.max_pixels],
        }

    def fit(self, **arguments: Any) -> None:
        """Lightning's ``fit``, in the run's folder."""
        saver = next(c for c in self.trainer.callbacks if isinstance(c, RunCheckpoint))
        saver.config = self.settings
        if self.found is not None:
            saver.begin_after(self.found.identity["step"])
        writes = self.trainer.is_global_zero and not self.trainer.fast_dev_run
        if writes:
            atomic_write_text(self.folder / "config.yaml", self.settings)
            _say(f"run {self.folder}")
        os.environ[FOLDER] = str(self.folder)
        try:
            self.trainer.fit(**arguments)
        finally:
            del os.environ[FOLDER]
            if self.trainer.is_global_zero and self.found is None and not self.trainer.global_step:
                give_back_run(self.folder)
        if writes and self.trainer.global_step:
            _say(f"to test it: laid test --ckpt_path {self.folder}")


def _is_first() -> bool:
    """Whether this process is rank 0, asked before there is a process group.

    Where Lightning starts the processes of each of several nodes, the first of a node knows
    nothing but the node's rank.
    """
    return rank_zero_only.rank == 0 and os.environ.get("NODE_RANK", "0") == "0"


def _say(text: str) -> None:
    if _is_first():
        print(f"laid: {text}", flush=True)
