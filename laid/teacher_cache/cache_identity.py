"""What a teacher's signals depend on, and how two of these differ."""

from typing import Any

from lightning import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision

from laid.common.differences import differences
from laid.common.errors import UserError
from laid.common.json_codec import Json
from laid.data.datamodule import HaystackDataModule
from laid.vlm.model_loading import ModelArgs
from laid.vlm.model_paths import model_folder, settings_hashes
from laid.vlm.weight_files import local_fingerprint

Differing = dict[str, tuple[Any, Any]]
"""By setting: of the cache, and now."""

_CONTENT = ("weights", "config")
_NAMED = ("path", "revision")
_COMPUTED = ("dtype", "autocast")
_AUTOCAST = {"bf16-mixed": "bfloat16", "16-mixed": "float16"}


def teacher_identity(args: ModelArgs, trainer: Trainer) -> Json:
    """Of a teacher under a trainer's precision: its name, hashes of its weights and of its
    config.json (None for what is not on this machine), dtype, and the precision that it is autocast
    to, where its numbers have another dtype by that."""
    weights, config = f"random, seed {args.seed}", None
    try:
        folder = model_folder(args.path, args.revision, local_files_only=True)
        config = settings_hashes(str(folder), None).get("config.json")
    except UserError:
        pass  # it is not here
    plugin = trainer.precision_plugin
    autocast = isinstance(plugin, MixedPrecision) and args.dtype != _AUTOCAST[plugin.precision]
    return {
        "path": args.path,
        "revision": args.revision,
        "weights": weights if args.random_weights else local_fingerprint(args.path, args.revision),
        "config": config,
        "dtype": args.dtype,
        "autocast": plugin.precision if autocast else None,
    }


def reading_identity(data: HaystackDataModule) -> Json:
    """Of what a teacher reads: processor with its pixel limits, prefix, and the training entries
    with the content of their images; and which answers are wanted, where it is all of them."""
    entries, turns = data.train_entries, data.train_args.turns
    return {
        "processor": data.encoder.processor.identity(),
        "prefix": data.prefix,
        "entries": {"count": len(entries), "content": data.source.fingerprint(entries)},
        **({"turns": turns} if turns != "last" else {}),
    }


def teacher_differences(stored: Json, ours: Json) -> Differing:
    """What differs between the teacher of a cache and that of a run. Names count only where the
    run's weights are not on this machine."""
    here = _CONTENT if ours["weights"] is not None else (*_NAMED, "config")
    keys = [key for key in (*here, *_COMPUTED) if key != "config" or ours["config"] is not None]
    before, after = ({f"teacher.{key}": side.get(key) for key in keys} for side in (stored, ours))
    return differences(before, after)


def refuse(what: str, found: Differing, now: str, advice: str) -> None:
    """Raises ``UserError`` with everything that differs, unless nothing does."""
    if found:
        lines = (f"{key}: the cache {a!r}, {now} {b!r}" for key, (a, b) in found.items())
        raise UserError(f"{what} was made otherwise:\n  " + "\n  ".join(lines) + f"\n{advice}")
