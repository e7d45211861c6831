"""Parse a COCO instance file into a small table: which category covers how much of which image."""

import json
import logging
import math
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from laid.common.errors import UserError
from laid.data.image_names import clean_name
from laid.data.json_files import read_json

log = logging.getLogger(__name__)

_LARGE = 64 << 20
"""Bytes of a file that takes more than a few seconds to parse."""


@dataclass(frozen=True, eq=False)
class InstanceTable:
    """N images, C categories, and the M pairs of them that have any annotation.

    Attributes:
        files, widths, heights: [N] in the order of the file names; pixels.
        categories: [C] names, in the order of COCO's ids.
        cells: [M] positions in the flattened [N, C] matrix, ascending.
        largest: [M] the largest share of the image that one non-crowd annotation covers; -1 where
            all are crowds.
    """

    files: npt.NDArray[np.str_]
    widths: npt.NDArray[np.int64]
    heights: npt.NDArray[np.int64]
    categories: npt.NDArray[np.str_]
    cells: npt.NDArray[np.int64]
    largest: npt.NDArray[np.float64]


def parse_instances(path: Path) -> InstanceTable:
    """Read ``path`` and check it; a large one is logged, because it takes some seconds.

    Raises:
        UserError: names the file, the element, and what in it is missing, unknown, double or out
            of range.
    """
    size = path.stat().st_size
    if size > _LARGE:
        log.info(
            "reading %s (%d MiB) once; later starts read the index made of it",
            path.name,
            size >> 20,
        )
    content = read_json(path, without="segmentation")
    if not isinstance(content, dict):
        raise UserError(
            f"{path} is not a COCO instance file: expected an object at the top level, found "
            f"{_excerpt(content)}"
        )
    reader = _Reader()
    for member, add in (
        ("categories", reader.add_category),
        ("images", reader.add_image),
        ("annotations", reader.add_annotation),
    ):
        _each(path, content, member, add)
    return reader.table()


def _each(
    path: Path, content: dict[str, Any], member: str, add: Callable[[dict[str, Any]], None]
) -> None:
    if member not in content:
        raise UserError(
            f"{path} is not a COCO instance file: it has no {member!r}, only {sorted(content)}. "
            "(COCO's image_info files carry no annotations.)"
        )
    elements = content[member]
    if not (isinstance(elements, list) and elements):
        raise UserError(
            f"{path}: expected a list of one or more under {member!r}, found {_excerpt(elements)}"
        )
    for number, element in enumerate(elements):
        try:
            if not isinstance(element, dict):
                raise UserError("expected an object")
            add(element)
        except (KeyError, UserError) as error:
            what = f"has no {error}" if isinstance(error, KeyError) else f"is wrong: {error}"
            raise UserError(
                f"{path}: element {number} of {member!r} {what}. It reads {_excerpt(element)}"
            ) from error


class _Reader:
    """Categories and images are read first, so that each annotation is joined as it is read."""

    def __init__(self) -> None:
        self.categories: dict[int, str] = {}
        self.images: dict[int, tuple[str, int, int]] = {}
        self.files: set[str] = set()
        self.largest: dict[tuple[int, int], float] = {}

    def add_category(self, found: dict[str, Any]) -> None:
        number, name = _whole(found, "id"), found["name"]
        if not (isinstance(name, str) and name):
            raise UserError(f"'name' is {_excerpt(name)}, expected a text")
        if number in self.categories or name in self.categories.values():
            raise UserError("its id or its name occurs twice")
        self.categories[number] = name

    def add_image(self, found: dict[str, Any]) -> None:
        number, name = _whole(found, "id"), clean_name("annotations", found["file_name"])
        if number in self.images:
            raise UserError(f"'id' {number} is used by two images")
        if name in self.files:
            raise UserError(f"'file_name' {name!r} is used by two images")
        self.files.add(name)
        self.images[number] = (name, _whole(found, "width", 1), _whole(found, "height", 1))

    def add_annotation(self, found: dict[str, Any]) -> None:
        image = _listed(found, "image_id", self.images)
        category = _listed(found, "category_id", self.categories)
        area, pair = found["area"], (image, category)
        if not (isinstance(area, (int, float)) and 0 <= area < math.inf):
            raise UserError(f"'area' is {_excerpt(area)}, expected square pixels, 0 or more")
        _, width, height = self.images[image]
        share = -1.0 if _whole(found, "iscrowd", default=0) else area / (width * height)
        self.largest[pair] = max(share, self.largest.get(pair, -1.0))

    def table(self) -> InstanceTable:
        # Sorted by name: the order of the JSON's list must not decide which haystacks are drawn.
        images = dict(sorted(self.images.items(), key=lambda item: item[1]))
        files, widths, heights = zip(*images.values(), strict=True)
        rows = {number: row for row, number in enumerate(images)}
        columns = {number: column for column, number in enumerate(sorted(self.categories))}
        largest = {
            rows[image] * len(columns) + columns[category]: share
            for (image, category), share in self.largest.items()
        }
        cells = sorted(largest)
        return InstanceTable(
            files=np.array(files),
            widths=np.array(widths),
            heights=np.array(heights),
            categories=np.array([self.categories[number] for number in columns]),
            cells=np.array(cells),
            largest=np.array([largest[cell] for cell in cells]),
        )


def _whole(
    found: dict[str, Any], key: str, least: int | None = None, default: int | None = None
) -> int:
    value = found[key] if default is None else found.get(key, default)
    if not isinstance(value, int) or (least is not None and value < least):
        from_least = "" if least is None else f", {least} or more"
        raise UserError(f"{key!r} is {_excerpt(value)}, expected a whole number{from_least}")
    return value


def _listed(found: dict[str, Any], key: str, known: Container[int]) -> int:
    number = _whole(found, key)
    if number not in known:
        raise UserError(f"{key!r} is {number}, which the file does not list")
    return number


def _excerpt(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]} …"
