"""Fills a model that was built without weights: from safetensors files, or at random.

A model may be sharded across ranks. What this module needs of the sharding is only where each
rank's rows begin (``Rows``); so every rank reads its own rows and never holds a whole model.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel

from laid.common.errors import UserError
from laid.common.json_files import read_json
from laid.vlm.export_marker import check_export
from laid.vlm.families.registry import family_of
from laid.vlm.model_paths import INDEX, cannot_load, model_folder, weights_fingerprint

Rows = Callable[[Tensor], tuple[Tensor, int]]
"""Of a parameter: the part that this process holds (some of its rows, or none), and the first of
them."""

_TOGETHER = 256
"""Rows that are drawn from one generator."""

ADAPTER = "default"
"""peft's name for an adapter that has none."""

GAIN = "rope_gain"
"""Name of the module of an attention's RoPE response gains."""


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is LoRA's A or B."""
    return f".{ADAPTER}." in name


def is_gain(name: str) -> bool:
    """Whether a parameter of this name is of RoPE response gains."""
    return f".{GAIN}." in name


def own_parameters(model: PreTrainedModel) -> dict[str, Tensor]:
    """A model's parameters less adapters and gains, by the names that they have without them."""
    return {
        # peft puts a layer that gets an adapter one level down.
        name.replace(".base_layer.", "."): parameter
        for name, parameter in model.named_parameters()
        if not (is_adapter(name) or is_gain(name))
    }


def all_rows(parameter: Tensor) -> tuple[Tensor, int]:
    """The ``Rows`` of a model that is on one device."""
    return parameter, 0


@torch.no_grad()
def fill_from_files(model: PreTrainedModel, path: str, revision: str | None, rows: Rows) -> None:
    """Copies this process's rows of every parameter from the files, in the parameter's dtype.

    Raises:
        UserError: a parameter is in no file or has another shape there, or a file can't be read.
    """
    targets, family = own_parameters(model), family_of(model.config)
    missing = set(targets)
    folder = model_folder(path, revision, local_files_only=True)
    check_export(folder)
    for file in _files(folder, path):
        try:
            with safe_open(file, framework="pt") as content:
                for key in content.keys():  # noqa: SIM118  # no mapping
                    name = family.parameter_name(key)  # the hub's may be version 4's
                    if name not in targets:
                        continue  # a tied head that was written all the same
                    stored = content.get_slice(key)
                    shape, expected = list(stored.get_shape()), list(targets[name].shape)
                    exchanged = shape != expected and family.may_be_exchanged(name)
                    if exchanged:
                        expected[-2:] = reversed(expected[-2:])
                    if shape != expected:
                        raise UserError(
                            f"{key} of {file} is {shape}, expected {list(targets[name].shape)} "
                            "after config.json"
                        )
                    mine, first = rows(targets[name])
                    if mine.numel():
                        part = stored[first : first + len(mine)]
                        mine.copy_(part.mT if exchanged else part)
                    missing.discard(name)
        except (OSError, SafetensorError) as reason:
            raise cannot_load("weights", path, reason) from reason
    if missing:
        raise UserError(
            f"cannot load the weights of {path!r}: {len(missing)} of {len(targets)} parameters "
            f"are in none of its safetensors files, such as {min(missing)}"
        )


@torch.no_grad()
def fill_at_random(model: PreTrainedModel, seed: int, rows: Rows) -> None:
    """Draws matrices from a normal distribution of the configuration's ``initializer_range``;
    norms become 1 and biases 0.

    What a row becomes depends on the seed and its place alone, not on how rows are sharded.
    """
    deviation = model.config.text_config.initializer_range
    for name, parameter in own_parameters(model).items():
        mine, first = rows(parameter)
        if parameter.ndim == 1:
            mine.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        for at in range(first - first % _TOGETHER, first + len(mine), _TOGETHER):
            digest = hashlib.sha256(f"{seed} {name} {at}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            drawn = torch.randn(_TOGETHER, *parameter.shape[1:], generator=generator)
            low, high = max(at, first), min(at + _TOGETHER, first + len(mine))
            mine[low - first : high - first] = deviation * drawn[low - at : high - at]


def fill_buffers(model: PreTrainedModel) -> None:
    """Computes what is in no file, such as rotary frequencies, as ``from_pretrained`` does."""
    for parameter in model.parameters():
        parameter._is_hf_initialized = True  # transformers leaves those as they are
    for part in (x for x in model.modules() if isinstance(x, PreTrainedModel)):
        for module in part.modules():
            if any(True for _ in module.buffers(recurse=False)):
                part._init_weights(module)


def shard_names(folder: Path) -> list[str]:
    """The weight files of a folder, after its index if it has one.

    Raises:
        UserError: the index is not one, or names what is no file of the folder.
    """
    if not (index := folder / INDEX).exists():
        return ["model.safetensors"]
    content = read_json(index)
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        raise UserError(f"{index}: expected an object weight_map, of the file of each parameter")
    for key, name in found.items():
        if not isinstance(name, str) or Path(name).name != name or "\\" in name:
            raise UserError(f"{index}: weight_map.{key} is {name!r}, expected a file beside it")
        if not (folder / name).is_file():
            raise UserError(f"{index}: weight_map.{key} is {name!r}, but {folder} has no such file")
    return sorted(set(found.values()))


def local_weights(path: str, revision: str | None) -> list[Path]:
    """A model's weight files where all are on this machine, else none; nothing is downloaded."""
    try:
        folder = model_folder(path, revision, local_files_only=True)
        files = [folder / name for name in shard_names(folder)]
    except UserError:
        return []
    return files if all(file.is_file() for file in files) else []


def local_fingerprint(path: str, revision: str | None) -> str | None:
    """``weights_fingerprint`` of ``local_weights``; None where there are none."""
    files = local_weights(path, revision)
    return weights_fingerprint(str(files[0].parent), None) if files else None


def _files(folder: Path, path: str) -> list[Path]:
    names = shard_names(folder)
    if missing := [name for name in names if not (folder / name).exists()]:
        raise UserError(f"cannot load the weights of {path!r}: {folder} has no {missing[0]}")
    return [folder / name for name in names]
