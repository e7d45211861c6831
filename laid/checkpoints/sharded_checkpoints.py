"""Sharded checkpoints: a folder to which each rank writes its shards of the tensors.

    step=50.ckpt/__0_0.distcp   rank 0's shards (torch.distributed.checkpoint, DCP)
    step=50.ckpt/meta.pt        all the rest, the index of the shards, and the files' sizes

Any number of ranks reads what another number wrote, sharded or not; and sharded models read
checkpoints that are one file.
"""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast
from warnings import catch_warnings, simplefilter

import lightning as L
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from laid.checkpoints.checkpoint_files import (
    FILES,
    INDEX,
    META,
    first_failure,
    load_mapped,
    load_mapped_part,
    load_plain,
    read_meta,
    refusing_damage,
)
from laid.checkpoints.module_state import (
    OBJECTIVE,
    check_fits,
    drop,
    held,
    refuse_not_finite,
)
from laid.checkpoints.shard_index import (
    PlainLoadPlanner,
    ShardReader,
    fingerprints,
    index_of,
    metadata_of,
)
from laid.common.atomic_files import atomic_dir
from laid.common.disk_space import not_written
from laid.common.errors import UserError
from laid.distributed.process_group import gather, on_rank_zero, this_rank, world_size
from laid.distributed.sharded_tensors import local_rows, shard_like

WEIGHTS = "state_dict"
STATES = "optimizer_states"


def save_sharded(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint whose tensors are sharded across ranks; all ranks call it together.

    The folder takes its name when it is whole.

    Raises:
        UserError: it can't be written; nothing is left of it then.
    """
    tensors = {WEIGHTS: checkpoint.pop(WEIGHTS)}
    for at, state in enumerate(checkpoint.pop(STATES, [])):
        tensors[f"optimizer_{at}"] = state
    with ExitStack() as stack:
        folder = Path(
            on_rank_zero(lambda: str(stack.enter_context(atomic_dir(path, lambda there: True))))
        )
        try:
            metadata = dcp.save(tensors, checkpoint_id=folder)
        except CheckpointException as reason:  # on every rank, whichever could not write
            raise not_written(f"the checkpoint {path}", first_failure(reason), path) from None
        prints = ChainMap(*gather(fingerprints(folder, metadata, this_rank())))

        def finish() -> None:
            (folder / ".metadata").unlink()  # a pickle; INDEX has what it says
            checkpoint[INDEX] = index_of(metadata, prints)
            checkpoint[FILES] = {file.name: file.stat().st_size for file in folder.iterdir()}
            torch.save(checkpoint, folder / META)

        on_rank_zero(finish)
    on_rank_zero(lambda: None)  # no rank continues before it has its name


def load_sharded(
    path: Path, module: L.LightningModule, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, Any]:
    """Reads each rank's shard of a checkpoint, file or folder, into module and optimizers.

    Returns:
        What the checkpoint has besides.

    Raises:
        UserError: it is damaged, or of a model of another shape or of another optimizer.
    """
    if not path.is_dir():
        return _load_file(path, module, optimizers)
    content, metadata = _open(path)
    weights = held(module, cast(dict[str, Tensor], get_model_state_dict(module)))
    _fitting(weights, _shapes(metadata))
    _read(path, metadata, {WEIGHTS: weights})
    refuse_not_finite(weights, f"checkpoint {path}")
    module.load_state_dict(weights, strict=module.strict_loading)
    for at, optimizer in enumerate(optimizers):
        state = get_optimizer_state_dict(module, optimizer)
        _read(path, metadata, {f"optimizer_{at}": state})
        set_optimizer_state_dict(module, optimizer, state)
    return content


def read_whole(path: Path, with_optimizer: bool = True) -> dict[str, Any]:
    """A checkpoint, file or folder, in one process and as if it had always been one file.

    Args:
        with_optimizer: without, of a file only the pages that are used are read.

    Raises:
        UserError: it is damaged.
    """
    if not path.is_dir():
        with refusing_damage(path):
            content = load_plain(path) if with_optimizer else load_mapped_part(path, WEIGHTS)
            refuse_not_finite(content[WEIGHTS], f"checkpoint {path}")
            return dict(content)
    content, metadata = _open(path)
    tensors: dict[str, Any] = {}
    with refusing_damage(path):
        flat: dict[str, Any] = {}
        for key, stored in metadata.state_dict_metadata.items():
            if with_optimizer or key.startswith(f"{WEIGHTS}."):
                flat[key] = 0
                if isinstance(stored, TensorStorageMetadata):
                    flat[key] = torch.empty(stored.size, dtype=stored.properties.dtype)
        _read(path, metadata, flat, no_dist=True)
        for key, value in flat.items():
            *parents, last = metadata.planner_data[key]
            place = tensors
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        content[WEIGHTS] = tensors.pop(WEIGHTS)
        refuse_not_finite(content[WEIGHTS], f"checkpoint {path}")
        if with_optimizer:
            content[STATES] = [_numbered(tensors[name]) for name in sorted(tensors)]
    return content


def _open(path: Path) -> tuple[dict[str, Any], Metadata]:
    """What a folder has besides tensors, and where these are."""
    content = read_meta(path)
    with refusing_damage(path):
        return content, metadata_of(content.pop(INDEX), content.pop(FILES))


def _read(path: Path, metadata: Metadata, into: dict[str, Any], no_dist: bool = False) -> None:
    with refusing_damage(path), catch_warnings():
        simplefilter("ignore", UserWarning)  # that one process is meant
        reader = ShardReader(path, metadata)
        dcp.load(into, storage_reader=reader, planner=PlainLoadPlanner(), no_dist=no_dist)


def _fitting(ours: Mapping[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors for a model, without the objective where it has none.

    Raises:
        UserError: the checkpoint is of a model of another shape.
    """
    if not any(key.startswith(OBJECTIVE) for key in ours):
        drop(theirs, OBJECTIVE)
    check_fits(ours, theirs)
    return theirs


def _shapes(metadata: Metadata) -> dict[str, Tensor]:
    """The model's tensors in a folder, on the meta device."""
    return {
        key.removeprefix(f"{WEIGHTS}."): torch.empty(value.size, device="meta")
        for key, value in metadata.state_dict_metadata.items()
        if key.startswith(f"{WEIGHTS}.") and isinstance(value, TensorStorageMetadata)
    }


def _load_file(
    path: Path, module: L.LightningModule, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, Any]:
    content = _load_together(path)
    ours = held(module, module.state_dict())
    theirs = _fitting(ours, content.pop(WEIGHTS))
    for name, tensor in ours.items():
        mine, first = local_rows(tensor)
        mine.copy_(theirs[name][first : first + len(mine)] if mine.ndim else theirs[name])
    refuse_not_finite(ours, f"checkpoint {path}")
    for optimizer, saved in zip(optimizers, content.pop(STATES), strict=False):
        params = [p for group in optimizer.param_groups for p in group["params"]]
        state = {
            number: {
                key: shard_like(params[number], value) if value.ndim else value
                for key, value in of_one.items()
            }
            for number, of_one in saved["state"].items()
        }
        optimizer.load_state_dict({**saved, "state": state})
    return content


def _load_together(path: Path) -> dict[str, Any]:
    """A file's content in every process, memory-mapped; each checks its share of the tensors."""
    content, failure = {}, None
    try:
        with refusing_damage(path):
            content = dict(load_mapped(path, lambda number: number % world_size() == this_rank()))
    except UserError as reason:
        failure = reason
    if failures := [one for one in gather(failure) if one is not None]:
        raise failures[0]
    return content


def _numbered(named: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state by parameters' numbers, as one process keeps it, from one by name."""
    numbers: dict[str, int] = {}
    groups = []
    # Lists come back as dictionaries by place.
    for _, group in sorted(named["param_groups"].items()):
        mine = [numbers.setdefault(name, len(numbers)) for name in group["params"]]
        groups.append({**group, "params": mine})
    state = {numbers[name]: of_one for name, of_one in named["state"].items()}
    return {"state": state, "param_groups": groups}
