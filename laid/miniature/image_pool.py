"""The images of a drawn mini-COCO split as patches in memory.

Shape suffixes: I images, P 16 patches of an image, D values of a patch without its temporal axis
(3 colours x 14 x 14), C categories.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from laid.common.errors import UserError
from laid.data.coco_index import CocoIndex
from laid.data.image_files import load_image
from laid.minicoco.drawing import SIDE

PATCH = 14
MERGE = 2
PATCHES = (SIDE // PATCH) ** 2


@dataclass(frozen=True)
class Pool:
    """Images and the objects in them.

    Attributes:
        files: paths below the COCO root, in the index's order.
        patches_IPD: uint8, in Qwen2.5-VL's order of patches: the four of a visual token are
            adjacent.
        present_IC: bool, which categories an image shows.
    """

    files: tuple[str, ...]
    categories: tuple[str, ...]
    patches_IPD: Tensor
    present_IC: Tensor

    def __len__(self) -> int:
        return len(self.files)

    @classmethod
    def load(cls, root: Path, split: str) -> "Pool":
        """Reads every image of a split of ``laid.minicoco.drawing``.

        Raises:
            UserError: an image is missing or not of the mini-COCO's size, or the split has objects
                that are not clearly visible.
        """
        index = CocoIndex.load(root, split)
        if (index.clear != index.present).any():
            raise UserError(f"{root} has crowds or tiny objects: expected a drawn mini-COCO")
        files = tuple(index.files.tolist())
        pixels = np.empty((len(files), SIDE, SIDE, 3), dtype=np.uint8)
        for row, name in enumerate(files):
            image = np.asarray(load_image(root / name))
            if image.shape != pixels.shape[1:]:
                raise UserError(f"{name} has shape {image.shape}, expected {pixels.shape[1:]}")
            pixels[row] = image
        return cls(files, index.categories, cut(pixels), torch.from_numpy(index.present))


def cut(pixels: np.ndarray) -> Tensor:
    """``patches_IPD`` of uint8 images [I, SIDE, SIDE, 3]."""
    tokens = SIDE // PATCH // MERGE
    grid = torch.from_numpy(pixels).reshape(-1, tokens, MERGE, PATCH, tokens, MERGE, PATCH, 3)
    return grid.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(len(pixels), PATCHES, -1).contiguous()


def normalise(patches_IPD: Tensor) -> Tensor:
    """Float patches of uint8 ones, as Qwen2.5-VL's image processor normalises them."""
    shape = (*patches_IPD.shape[:-1], 3, PATCH * PATCH)
    mean, std = (torch.tensor(values)[:, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return ((patches_IPD.reshape(shape).float() / 255 - mean) / std).flatten(-2)
