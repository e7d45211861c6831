"""Parse a COCO instance file into a small table: which category covers how much of which image."""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from laid.common.errors import UserError
from laid.common.json_files import read_json
from laid.data.image_names import clean_name

log = logging.getLogger(__name__)

_Id = int | str

_LONGEST = 1_000_000
"""Pixels of a side; no image file that Pillow reads has more."""

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
    if reader.notes:
        log.info("%s: read %s", path, "; ".join(sorted(reader.notes)))
    try:
        return reader.table()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


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
    """Categories and images are read first, so that each annotation is joined as it is read.

    Attributes:
        notes: what was read although COCO writes it otherwise.
    """

    def __init__(self) -> None:
        self.notes: set[str] = set()
        self.categories: dict[_Id, str] = {}
        self.images: dict[_Id, tuple[str, int, int]] = {}
        self.files: set[str] = set()
        self.largest: dict[tuple[_Id, _Id], float] = {}
        self.annotations = 0

    def add_category(self, found: dict[str, Any]) -> None:
        number, name = self._id(found, "id"), found["name"]
        if not (isinstance(name, str) and name.strip()):
            raise UserError(f"'name' is {_excerpt(name)}, expected a text")
        if number in self.categories:
            raise UserError(f"'id' {_excerpt(number)} is used by two categories")
        for other, taken in self.categories.items():
            if _plain(taken) == _plain(name):
                raise UserError(
                    f"categories {_excerpt(other)} and {_excerpt(number)} are named {taken!r} and "
                    f"{name!r}, which differ in nothing, or in case, blanks or underscores only; "
                    "expected one name for one object"
                )
        tidy = " ".join(name.split())
        if tidy != name:
            self.notes.add(f"{name!r} as {tidy!r}")
        self.categories[number] = tidy

    def add_image(self, found: dict[str, Any]) -> None:
        number, name = self._id(found, "id"), clean_name("annotations", found["file_name"])
        if number in self.images:
            raise UserError(f"'id' {_excerpt(number)} is used by two images")
        if name in self.files:
            raise UserError(f"'file_name' {name!r} is used by two images")
        self.files.add(name)
        self.images[number] = (name, self._side(found, "width"), self._side(found, "height"))

    def add_annotation(self, found: dict[str, Any]) -> None:
        image, category = self._id(found, "image_id"), self._id(found, "category_id")
        shown = self.images.get(image)
        if shown is None:
            raise UserError(f"'image_id' is {_excerpt(image)}, which no image has as 'id'")
        if category not in self.categories:
            raise UserError(f"'category_id' is {_excerpt(category)}, which no category has as 'id'")
        area, pair = self._area(found), (image, category)
        share = -1.0 if self._is_crowd(found) else area / (shown[1] * shown[2])
        if share > self.largest.get(pair, -2.0):
            self.largest[pair] = share
        self.annotations += 1

    def table(self) -> InstanceTable:
        if max(self.largest.values()) < 0:
            n = self.annotations
            raise UserError(f"{n} of {n} annotations are crowds ('iscrowd' 1), which no needle has")
        # Sorted by name: the order of the JSON's list must not decide which haystacks are drawn.
        images = dict(sorted(self.images.items(), key=lambda item: item[1]))
        files, widths, heights = zip(*images.values(), strict=True)
        rows = {number: row for row, number in enumerate(images)}
        columns = {
            number: column for column, number in enumerate(sorted(self.categories, key=_rank))
        }
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

    def _id(self, found: dict[str, Any], key: str) -> _Id:
        value = found[key]
        if type(value) is int:
            return value
        if isinstance(value, str) and value:
            self.notes.add("ids that are texts")
            return value
        if isinstance(value, float) and value.is_integer():
            self.notes.add("whole numbers that are written as floats")
            return int(value)
        raise UserError(f"{key!r} is {_excerpt(value)}, expected a whole number or a text")

    def _side(self, found: dict[str, Any], key: str) -> int:
        value = found[key]
        if isinstance(value, int | float) and 1 <= value <= _LONGEST and value == int(value):
            return int(value)
        raise UserError(
            f"{key!r} is {_excerpt(value)}, expected a whole number of pixels, 1 to {_LONGEST:,}"
        )

    def _is_crowd(self, found: dict[str, Any]) -> bool:
        value = found.get("iscrowd", 0)
        if value is None:
            self.notes.add("'iscrowd' null as 0")
        elif value not in (0, 1):
            raise UserError(f"'iscrowd' is {_excerpt(value)}, expected 0 or 1")
        return bool(value)

    def _area(self, found: dict[str, Any]) -> float:
        area = found.get("area")
        if area is None:
            self.notes.add("the area of 'bbox' where there is no 'area'")
            box = found.get("bbox")
            if not (isinstance(box, list) and len(box) == 4 and all(map(_is_size, box[2:]))):
                raise UserError(
                    f"'area' is missing and 'bbox' is {_excerpt(box)}, expected an area in square "
                    "pixels, or [x, y, width, height]"
                )
            area = box[2] * box[3]
        if not _is_size(area):
            raise UserError(f"'area' is {_excerpt(area)}, expected square pixels, 0 or more")
        return float(area)


def _is_size(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


def _rank(number: _Id) -> tuple[bool, float, str]:
    """Sorts ids as numbers where they are numbers, be it in quotation marks, and as texts after."""
    text = str(number)
    numeric = isinstance(number, int) or (text.isdecimal() and len(text) < 20)
    return (False, int(text), text) if numeric else (True, 0, text)


def _plain(name: str) -> str:
    return "".join(name.replace("_", " ").split()).casefold()


def _excerpt(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]} …"
