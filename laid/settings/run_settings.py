"""The settings of a run: what ``laid fit``, ``validate``, ``test``, ``predict`` and ``plan`` read.

From the weakest to the strongest: defaults, the settings of the checkpoint's run, ``--config``
files in their order, and what is typed, wherever it stands.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch.cli import ActionConfigFile, LightningArgumentParser

from laid.callbacks.head_flow import HeadFlow
from laid.checkpoints.checkpoint_callback import RunCheckpoint
from laid.checkpoints.runs import Found, find_checkpoint
from laid.common.command_parser import CommandParser, split_configs
from laid.common.differences import differences
from laid.common.errors import UserError
from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import BUILT_ONLY
from laid.training import sharded_strategy  # --trainer.strategy laid_fsdp
from laid.training.module import LaidModule

RUNS = "runs"


class SettingsParser(CommandParser, LightningArgumentParser):
    """A parser of Lightning's classes."""


@dataclass(frozen=True)
class Given:
    """What the user gave.

    Attributes:
        config: all settings, complete.
        found: the checkpoint; None without ``--ckpt_path``.
    """

    config: Namespace
    found: Found | None

    def overrides(self, parser: SettingsParser) -> dict[str, tuple[Any, Any]]:
        """Dotted keys whose value is not the checkpoint's run's: its value, and the one now."""
        if self.found is None:
            return {}
        return differences(self.found.config, plain(parser, self.config), one_sided=False)


def settings_parser(
    prog: str, description: str, module: type[LaidModule] = LaidModule
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
    files, typed_words = split_configs(parser.prog, words)
    typed_words = [word for word in typed_words if not word.startswith("--print_config")]
    # Without defaults, a namespace holds what is said and nothing else.
    typed = parser.parse_args(typed_words, defaults=False)
    said = parser.parse_args([*files, *typed_words], defaults=False)
    found = None
    if (given := said.get("ckpt_path")) is not None:
        runs = Path(said.get("trainer.default_root_dir") or RUNS)
        found = find_checkpoint(given, runs, said.get("name"))
    if said.get("trainer.accumulate_grad_batches") is not None:
        raise UserError(
            "trainer.accumulate_grad_batches follows from data.global_batch_size, "
            "data.batch_size and the number of devices: set these"
        )
    # Values that follow from others; a parse without defaults has not all of these.
    parser.link_arguments("model.student.path", "data.processor")
    parser.link_arguments("model.student.revision", "data.revision")
    parser.link_arguments("seed_everything", "data.order_seed", compute_fn=_order_seed)
    below = ["--config", yaml.safe_dump(of_run(found.config))] if found else []
    config = parser.parse_args([*below, *words])
    if found is not None:
        config.ckpt_path = str(found.path)
    _refuse(config, typed)
    return Given(config, found)


def plain(parser: SettingsParser, config: Namespace) -> dict[str, Any]:
    """Settings as a YAML file has them."""
    content: dict[str, Any] = yaml.safe_load(parser.dump(config, skip_unset=False))
    return content


def _refuse(config: Namespace, typed: Namespace) -> None:
    if config.checkpoint.dirpath is not None:
        raise UserError(
            "checkpoint.dirpath: checkpoints are in the run's folder; choose that with --name "
            "and --trainer.default_root_dir"
        )
    if config.trainer.use_distributed_sampler:
        raise UserError(
            "trainer.use_distributed_sampler: laid distributes haystacks over the devices itself"
        )
    # Asked here as well, since Lightning makes bf16-mixed of 16-mixed on a CPU.
    if config.trainer.strategy == sharded_strategy.NAME:
        sharded_strategy.refuse_float16(config.trainer.precision)
    for stage, names in BUILT_ONLY.items():
        # In a file such a setting may stand: the file may be for built entries too.
        if config.data[stage] is None or config.data[stage].source is None:
            continue
        for key in (f"data.{stage}.{name}" for name in names):
            if key in typed:
                raise UserError(
                    f"--{key} is of entries that are built, and data.{stage}.source gives some "
                    "that are there already: leave one of the two out"
                )


def _order_seed(seed: bool | int) -> int:
    """The seed of the training order that goes with ``seed_everything``."""
    if seed is True:
        raise UserError("seed_everything true: expected a number, for a run that can be repeated")
    return int(seed)
