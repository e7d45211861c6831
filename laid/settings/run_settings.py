"""The settings of a run: what ``laid fit``, ``validate``, ``test``, ``predict`` and ``plan`` read.

From the weakest to the strongest: defaults, the settings of the checkpoint's run, ``--config``
files in their order, and what is typed, wherever it stands.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from string import Formatter
from typing import Any

import lightning as L
import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch.cli import ActionConfigFile, LightningArgumentParser

from laid.callbacks.head_flow import HeadFlow
from laid.callbacks.spectrum import Spectrum
from laid.checkpoints.checkpoint_callback import RunCheckpoint
from laid.checkpoints.runs import Found, check_name, find_checkpoint
from laid.common.command_parser import CommandParser, split_configs
from laid.common.differences import differences
from laid.common.errors import UserError
from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import BUILT, BUILT_ONLY, LIMITS
from laid.training import sharded_strategy  # --trainer.strategy laid_fsdp
from laid.training.module import LaidModule

RUNS = "runs"
PROBED = ("head_flow.sizes", "spectrum.sizes")
"""Sizes of validation entries: as ``LIMITS``."""
_STAGES = ("train", "validate", "test", "predict")


class SettingsParser(CommandParser, LightningArgumentParser):
    """A parser of Lightning's classes."""


@dataclass(frozen=True)
class Given:
    """What the user gave.

    Attributes:
        config: all settings, complete.
        found: the checkpoint; None without ``--ckpt_path``.
        void: dotted keys that are None since they were given for other entries.
    """

    config: Namespace
    found: Found | None
    void: frozenset[str] = frozenset()

    def overrides(self, parser: SettingsParser) -> dict[str, tuple[Any, Any]]:
        """Dotted keys whose value the user gave and is not the checkpoint's run's: its value, and
        the one now."""
        if self.found is None:
            return {}
        found = differences(self.found.config, plain(parser, self.config), one_sided=False)
        return {key: values for key, values in found.items() if key not in self.void}


def settings_parser(
    prog: str, description: str | None = None, module: type[LaidModule] = LaidModule
) -> SettingsParser:
    """A parser of the settings that all these commands have; ``read_settings`` completes it."""
    set_parsing_settings(
        # The docstrings beneath a dataclass's attributes are its --help.
        docstring_parse_attribute_docstrings=True,
        # A configuration is a file on this machine.
        config_read_mode_fsspec_enabled=False,
    )
    parser = SettingsParser(prog=prog, description=description)
    add = parser.add_argument
    add("-c", "--config", action=ActionConfigFile, help="YAML file of settings; repeatable.")
    add(
        "--seed_everything",
        type=bool | int,
        default=0,
        help="Seed of new weights, dropout and the training order. False: none is set.",
    )
    parser.add_lightning_class_args(L.Trainer, "trainer")
    parser.add_lightning_class_args(module, "model")
    parser.add_lightning_class_args(HaystackDataModule, "data")
    add("--name", type=str, default="laid", help="The run's folder is named after it.")
    parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
    parser.add_lightning_class_args(HeadFlow, "head_flow")
    parser.add_lightning_class_args(Spectrum, "spectrum")
    parser.set_defaults(
        {
            "checkpoint.filename": "{step}",
            "checkpoint.every_n_train_steps": 50,
            "trainer.use_distributed_sampler": False,
        }
    )
    return parser


def read_settings(
    parser: SettingsParser,
    words: Sequence[str],
    of_run: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Given:
    """Reads a command line, and the settings of the run whose checkpoint it names.

    Args:
        parser: of ``settings_parser``, with the command's own options.
        words: the command line after the command.
        of_run: which of the run's settings count; all by default.

    Raises:
        UserError: a setting that laid decides itself, one of built entries beside a source, or a
            checkpoint that is not there.
    """
    files, typed = split_configs(parser.prog, words)
    typed = [word for word in typed if not word.startswith("--print_config")]
    # Without defaults, a namespace holds what one source of settings says and nothing else.
    layers = [parser.parse_args(part, defaults=False) for part in (*files, typed)]
    found, run = None, []
    if (given := _last(layers, "ckpt_path")) is not None:
        runs = Path(_last(layers, "trainer.default_root_dir") or RUNS)
        found = find_checkpoint(given, runs, _last(layers, "name"))
        run = ["--config", yaml.safe_dump(of_run(found.config))]
        layers.insert(0, parser.parse_args(run, defaults=False))
    if _last(layers, "trainer.accumulate_grad_batches") is not None:
        raise UserError(
            "trainer.accumulate_grad_batches follows from data.global_batch_size, "
            "data.batch_size and the number of devices: set these"
        )
    # Values that follow from others; a parse without defaults has not all of these.
    parser.link_arguments("model.student.path", "data.processor")
    parser.link_arguments("model.student.revision", "data.revision")
    parser.link_arguments("seed_everything", "data.order_seed", compute_fn=_order_seed)
    config = parser.parse_args([*run, *words])
    if found is not None:
        config.ckpt_path = str(found.path)
    _refuse(config)
    return Given(config, found, frozenset(_check_sources(config, layers)))


def _last(layers: list[Namespace], key: str) -> Any:
    said = [value for layer in layers if (value := layer.get(key)) is not None]
    return said[-1] if said else None


def _check_sources(config: Namespace, layers: list[Namespace]) -> list[str]:
    """Where a source gives a stage's entries, settings of built entries are refused if typed, and
    limits hold if they are given beside the source or over it; a weaker file's are for others, and
    the keys of these are given back."""
    stages = [args for name in _STAGES if (args := config.data[name]) is not None]
    if config.data.image_root and not any(a.source or a.get("mixture") for a in stages):
        raise UserError(
            f"data.image_root {config.data.image_root} is of the images that conversations name, "
            "and no data.*.source gives any: give one, or leave it out"
        )
    void = []
    for stage, limits in LIMITS.items():
        args = config.data[stage]
        if args is None:
            continue
        mixture = args.get("mixture")
        sources = [args.source] if isinstance(args.source, str) else args.source or mixture
        if not sources or BUILT in sources:
            continue
        given = f"data.{stage}.{'mixture' if mixture else 'source'}"
        for key in (f"data.{stage}.{name}" for name in BUILT_ONLY[stage]):
            if key in layers[-1]:
                raise UserError(
                    f"--{key} is of entries that are built, and {given} gives some that are there "
                    "already: leave one of the two out"
                )
        keys = (f"data.{stage}.source", f"data.{stage}.mixture")
        gives = [any(layer.get(key) is not None for key in keys) for layer in layers]
        beside = layers[max(n for n, given in enumerate(gives) if given) :]
        probed = PROBED if stage == "validate" else ()
        for key in (*(f"data.{stage}.{name}" for name in limits), *probed):
            if _last(beside, key) is None:
                config[key] = None
                void.append(key)
    return void


def plain(parser: SettingsParser, config: Namespace) -> dict[str, Any]:
    """Settings as a YAML file has them."""
    # They were validated as they were parsed; and JSON, being quicker, gives the same content.
    options = {"format": "json", "skip_unset": False, "skip_validation": True}
    content: dict[str, Any] = json.loads(parser.dump(config, **options))
    return content


def _refuse(config: Namespace) -> None:
    for part in ("trainer", "model", "data", "checkpoint", "head_flow", "spectrum"):
        if not isinstance(config[part], Namespace):
            raise UserError(f"{part} {config[part]!r}: expected settings by name")
    for key, value in config.items():
        if isinstance(value, float) and not isfinite(value):
            raise UserError(f"{key} {value}: expected a finite number")
    if config.checkpoint.dirpath is not None:
        raise UserError(
            "checkpoint.dirpath: checkpoints are in the run's folder; choose that with --name "
            "and --trainer.default_root_dir"
        )
    check_name(config.name)
    _check_filename(config.checkpoint.filename)
    if config.trainer.use_distributed_sampler:
        raise UserError(
            "trainer.use_distributed_sampler: laid distributes haystacks over the devices itself"
        )
    for name in ("val_check_interval", "check_val_every_n_epoch", "gradient_clip_val"):
        value = config.trainer[name]
        if isinstance(value, int | float) and not value > 0:
            raise UserError(f"trainer.{name} {value}: expected more than 0, or null")
    for name, least in (("log_every_n_steps", 0), ("num_sanity_val_steps", -1)):
        if (value := config.trainer[name]) is not None and value < least:
            raise UserError(f"trainer.{name} {value}: expected {least} or more, or null")
    if not 0 <= config.seed_everything < 2**32:
        raise UserError(f"seed_everything {config.seed_everything}: expected 0 to 4294967295")
    # Asked here as well, since Lightning makes bf16-mixed of 16-mixed on a CPU.
    if config.trainer.strategy == sharded_strategy.NAME:
        sharded_strategy.refuse_float16(config.trainer.precision)


def _check_filename(filename: str) -> None:
    try:
        fields = [field for _, field, *_ in Formatter().parse(filename) if field is not None]
    except ValueError as reason:
        raise UserError(f"checkpoint.filename {filename!r}: {reason}") from reason
    for field in fields:
        if not re.fullmatch(r"[\w-]+", field):
            raise UserError(
                f"checkpoint.filename {filename!r}: {{{field}}} is no metric; expected such as "
                "{step} or {epoch:02d}"
            )


def _order_seed(seed: bool | int) -> int:
    """The seed of the training order that goes with ``seed_everything``."""
    if seed is True:
        raise UserError("seed_everything true: expected a number, for a run that can be repeated")
    return int(seed)
