"""Which settings of a checkpoint are used: those that can run no code and write no file.

A checkpoint may come from anybody. Trainer settings can name classes (callbacks, loggers,
profilers, plugins) and folders to write to; of these none is taken.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from laid.common.errors import UserError

_WORD = re.compile(r"[A-Za-z0-9_,-]*")
"""What a text of the trainer may be: neither a path nor a class."""
_PARTS = ("model", "data", "head_flow", "spectrum", "seed_everything", "name")
_CHECKPOINT = (
    "monitor", "mode", "filename", "save_top_k", "save_last", "save_on_exception",
    "every_n_train_steps", "every_n_epochs", "train_time_interval", "save_on_train_epoch_end",
    "verbose",
    "auto_insert_metric_name", "enable_version_counter", "save_weights_only",
)  # fmt: skip
_TRAINER = (
    "accelerator", "strategy", "devices", "num_nodes", "precision", "max_epochs", "min_epochs",
    "max_steps", "min_steps", "max_time", "limit_train_batches", "limit_val_batches",
    "limit_test_batches", "limit_predict_batches", "overfit_batches", "val_check_interval",
    "check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps", "enable_checkpointing",
    "enable_progress_bar", "enable_model_summary", "gradient_clip_val", "gradient_clip_algorithm",
    "deterministic", "benchmark", "inference_mode", "use_distributed_sampler", "detect_anomaly",
    "fast_dev_run", "enable_autolog_hparams", "barebones", "sync_batchnorm",
    "reload_dataloaders_every_n_epochs", "logger",
)  # fmt: skip
_TEXTS = ("monitor", "filename", "max_time", "train_time_interval")
_UNSAID = ("trainer.default_root_dir", "checkpoint.dirpath")
"""Left out silently: where a run lies follows from where its checkpoint lies."""


def trusted_settings(config: Any) -> tuple[dict[str, Any], list[str]]:
    """A checkpoint's settings that may be used whoever wrote them, and what was left out.

    Args:
        config: the settings as ``load_yaml`` gave them.

    Returns:
        The settings, and the keys (in dots) of those that were set and are left out.

    Raises:
        UserError: they are not settings of laid, or name a class in the model or the data.
    """
    if not isinstance(config, dict):
        raise UserError("its settings are not those of a run")
    for key, value in _values(config):
        if not isinstance(value, dict | list | bool | int | float | str | None):
            raise UserError(f"its settings have a {type(value).__name__} at {key[:80]}")
        if key.split(".")[0] in _PARTS and key.endswith(".class_path"):
            raise UserError(f"its settings name a class, {key}: laid's have none there")
    kept: dict[str, Any] = {}
    left: list[str] = []
    for key, value in config.items():
        if key in _PARTS:
            kept[key] = value
        elif key in ("trainer", "checkpoint") and isinstance(value, dict):
            allowed = _TRAINER if key == "trainer" else _CHECKPOINT
            kept[key] = {k: v for k, v in value.items() if k in allowed and _is_simple(k, v)}
            left += [f"{key}.{k}" for k, v in value.items() if k not in kept[key] and v is not None]
        elif value is not None:
            left.append(key)
    return kept, [key for key in left if key not in _UNSAID]


def _is_simple(key: str, value: Any) -> bool:
    """Whether a value is a number, a word of the trainer's, or a few of them."""
    if isinstance(value, list):
        return all(isinstance(one, int) for one in value)
    if isinstance(value, str):
        # A metric's name and a pattern of file names; RunCheckpoint looks at the latter.
        return key in _TEXTS or bool(_WORD.fullmatch(value))
    return not isinstance(value, dict)


def _values(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """All that is in a value, each with its key in dots."""
    parts: Iterable[tuple[Any, Any]] = (
        value.items() if isinstance(value, dict) else enumerate(value)
    )
    for name, part in parts:
        if isinstance(value, dict) and not isinstance(name, str):
            raise UserError(f"its settings have the key {name!r} at {key[:80]}")
        inside = f"{key}.{name}" if key else name
        yield inside, part
        if isinstance(part, dict | list):
            yield from _values(part, inside)
