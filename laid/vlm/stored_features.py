"""Features of a frozen vision tower on disk, shared by runs and ranks.

    FOLDER/KEY/SHARD/...    features of some images (``laid.common.tensor_shards``)

KEY depends on the vision tower's weights and settings, on the precision in which it computes and on
the image processor, and an image is known by the content of its file: what is stored for others is
never taken.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laid.common.atomic_files import discard, sweep
from laid.common.json_codec import Json
from laid.common.tensor_shards import TENSORS, Item, TensorShards
from laid.distributed.sharded_tensors import full_tensor
from laid.vlm.families.family import Family
from laid.vlm.families.vision_features import VisionFeatures

log = logging.getLogger(__name__)

_NOT_SETTINGS = ("transformers_version", "dtype", "torch_dtype")


def vision_identity(hf: Any, family: Family, processor: Json, precision: str) -> str:
    """A hash of what decides an image's features: the vision tower's weights by their content, its
    configuration, the image processor's settings, and the precision. All ranks of a sharded model
    call it.

    Args:
        precision: in which the tower multiplies; empty: as its weights are held.
    """
    settings = {
        key: value
        for key, value in family.config.vision_config.to_dict().items()
        if key not in _NOT_SETTINGS and not key.startswith("_")
    }
    content = [family.model_type, settings, processor]
    content += [precision] if precision else []
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode())
    for part in family.vision_parts(hf):
        for name, parameter in part.named_parameters():
            weight = full_tensor(parameter.detach()).cpu().contiguous()
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


class StoredFeatures:
    """The features that a folder has of one vision tower."""

    def __init__(self, folder: Path, key: str, device: torch.device):
        """
        Args:
            key: as ``vision_identity``.
            device: where features are wanted.
        """
        self.folder = folder / key
        advice = f"Remove {self.folder}: it is made again"
        self._shards = TensorShards(self.folder, key, advice)
        self._device = device
        self._places: dict[str, tuple[str, int, tuple[int, ...]]] = {}
        self._ids: Mapping[str, str] = {}

    @property
    def empty(self) -> bool:
        return not self._ids

    def find(self, remove_damaged: bool) -> None:
        """Finds what there is.

        Args:
            remove_damaged: whether what is damaged is removed, so that it is made again.

        Raises:
            UserError: a shard can't be read.
            OSError: as well.
        """
        if remove_damaged:
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep(self.folder)
        for place in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if place.name.startswith(".") or not place.is_dir():
                continue
            if self._shards.has(place.name):
                index = self._shards.index(place.name)
                for n, (name, numbers) in enumerate(zip(index.ids, index.numbers, strict=True)):
                    self._places[name] = place.name, n, numbers
            elif remove_damaged:
                log.warning("%s is damaged: its features are made again", place)
                discard(place)

    def lacks(self, ids: Iterable[str]) -> set[str]:
        """Which images it has no features of."""
        return set(ids) - self._places.keys()

    @property
    def bytes(self) -> int:
        """What it takes on disk."""
        return sum(path.stat().st_size for path in self.folder.glob(f"*/{TENSORS}"))

    def write(self, items: Sequence[Item]) -> None:
        """Stores images' features, as ``feature_item`` makes them.

        Raises:
            OSError: they can't be written.
        """
        ids = "\n".join(item.id for item in items)
        self._shards.write(hashlib.sha256(ids.encode()).hexdigest()[:16], items)

    def show(self, ids: Mapping[str, str]) -> dict[str, Tensor]:
        """What images are called in this stage, by their content's ids; gives the grid of each."""
        self._ids = ids
        return {name: torch.tensor(self._places[one][2][:3]) for name, one in ids.items()}

    def of(self, names: list[str]) -> list[VisionFeatures]:
        """The features of images.

        Raises:
            UserError: they can't be read.
        """
        return [self._read(self._ids[name]) for name in names]

    def read_ahead(self, _: str, names: Sequence[str]) -> None:
        """As ``ReadAhead``."""
        for name in names:
            self._shards.read_ahead(*self._places[self._ids[name]][:2])

    def _read(self, one: str) -> VisionFeatures:
        shard, n, (*_, more) = self._places[one]
        stored = self._shards.reader(shard, n)
        first, *others = (
            stored(name).to(self._device) for name in ("tokens", *map(str, range(more)))
        )
        return VisionFeatures(first, tuple(others))


def feature_item(one: str, features: VisionFeatures, grid_3: Tensor) -> Item:
    """What is stored of an image's features; ``one`` is the image's id."""
    tensors = {"tokens": features.tokens_VE}
    tensors |= {str(n): more_VE for n, more_VE in enumerate(features.more_VE)}
    numbers = (*grid_3.tolist(), len(features.more_VE))
    return Item(one, numbers, {name: x.clone().cpu() for name, x in tensors.items()})
