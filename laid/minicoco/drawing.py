"""A drawn data set in COCO's layout: haystacks for a machine without COCO, weights or network.

Each image is 56 x 56 pixels, a 2 x 2 grid of cells with two to four different objects on a noisy
background. A 28 x 28 cell is what Qwen2.5-VL merges into one visual token.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from laid.common.cached_files import cache_root
from laid.common.cached_folders import cached_folder
from laid.common.random_streams import stream
from laid.minicoco.glyphs import CATEGORIES, CELL, draw_glyph

MINICOCO = "minicoco"
"""What the drawn data set is called where a COCO folder is asked for."""
SIDE = 2 * CELL
DEFAULT_IMAGES: Mapping[str, int] = {"train2017": 4000, "val2017": 2000, "test2017": 2000}

# To increase when equal arguments give other pictures than before.
_FORMAT = 1


def ensure_minicoco(seed: int = 0, images: Mapping[str, int] = DEFAULT_IMAGES) -> Path:
    """The folder of ``draw_minicoco`` in the cache; drawn on first use (some ten seconds), and
    where a file is not as it was drawn."""
    sizes = "-".join(f"{split}-{count}" for split, count in images.items())
    root = cache_root() / "minicoco" / f"v{_FORMAT}-seed{seed}-{sizes}"
    cached_folder(root, lambda new: draw_minicoco(new, seed, images))
    return root


def coco_folder(named: str | Path) -> Path:
    """The folder that ``data.coco_root`` names: ``MINICOCO`` is the drawn one."""
    return ensure_minicoco() if named == MINICOCO else Path(named)


def draw_minicoco(folder: Path, seed: int = 0, images: Mapping[str, int] = DEFAULT_IMAGES) -> Path:
    """Draws the data set into a folder: ``annotations/instances_<split>.json`` and PNG files
    ``<split>/000000000001.png``.

    Every image follows from ``seed``, its split and its number, so no two splits share one and a
    larger set begins with the smaller. Each has its objects' true outlines as segmentation.

    Args:
        images: how many images each split has.
    """
    (folder / "annotations").mkdir(parents=True)
    total = sum(images.values())
    with tqdm(
        total=total, desc="drawing the mini-COCO", unit="image", delay=1, mininterval=1
    ) as bar:
        for split, count in images.items():
            (folder / split).mkdir()
            listed: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for number in range(1, count + 1):
                pixels, objects = _draw_image(stream(seed, "minicoco", split, number))
                name = f"{number:012d}.png"
                Image.fromarray(pixels).save(folder / split / name, compress_level=1)
                size = {"width": SIDE, "height": SIDE}
                listed.append({"id": number, "file_name": name, **size})
                for drawn in objects:
                    ids = {"id": len(annotations) + 1, "image_id": number}
                    annotations.append(ids | drawn)
                bar.update()
            categories = [{"id": k, "name": name} for k, name in CATEGORIES.items()]
            coco = {"images": listed, "annotations": annotations, "categories": categories}
            (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco))
    return folder


def _draw_image(rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], list[dict[str, Any]]]:
    """[SIDE, SIDE, 3] pixels, and COCO annotations without their ids."""
    canvas = _background(rng)
    count = int(rng.integers(2, 5))
    cells = rng.permutation(4)[:count].tolist()
    kinds = rng.choice(len(CATEGORIES), count, replace=False).tolist()
    ids = list(CATEGORIES)
    objects = []
    for cell, kind in zip(cells, kinds, strict=True):
        glyph = draw_glyph(kind, rng)
        top, left = CELL * (cell // 2), CELL * (cell % 2)
        part = canvas[top : top + CELL, left : left + CELL]
        part += glyph.cover * (glyph.paint - part)
        objects.append(_annotate(ids[kind], glyph.corners + np.array([left, top])))
    canvas += rng.integers(-1, 2, (SIDE, SIDE, 1)) * 6
    return np.clip(canvas, 0, 255).astype(np.uint8), objects


def _background(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Two greyish tones that run into each other, coarse blotches, and specks of any colour."""
    tones = 40 + 150 * rng.random((2, 1)) + rng.integers(-14, 15, (2, 3))
    ramp = np.linspace(0, 1, SIDE)[:, None, None]
    if rng.random() < 0.5:
        ramp = ramp.transpose(1, 0, 2)
    blotches = rng.integers(-12, 13, (8, 8, 1)).repeat(SIDE // 8, axis=0).repeat(SIDE // 8, axis=1)
    canvas = (tones[0] + ramp * (tones[1] - tones[0]) + blotches).astype(np.float32)
    for x, y in rng.integers(0, SIDE - 1, (int(rng.integers(2, 9)), 2)).tolist():
        canvas[y : y + 2, x : x + 2] = rng.integers(0, 256, 3)
    return canvas


def _annotate(category: int, corners: npt.NDArray[np.float64]) -> dict[str, Any]:
    outline = np.round(corners, 2)
    (x, y), (next_x, next_y) = outline.T, np.concatenate([outline[1:], outline[:1]]).T
    area = abs(float(x @ next_y - y @ next_x)) / 2
    box = [x.min(), y.min(), x.max() - x.min(), y.max() - y.min()]
    return {
        "category_id": category,
        "iscrowd": 0,
        "area": round(area, 3),
        "bbox": [round(float(value), 2) for value in box],
        "segmentation": [outline.ravel().tolist()],
    }
