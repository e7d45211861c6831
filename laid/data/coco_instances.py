"""Parse a COCO instance file into a small table: which category covers how much of which image."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from laid.common.errors import UserError
from laid.common.json_files import excerpt, read_json
from laid.data.image_names import clean_name

log = logging.getLogger(__name__)

_Id = int | str

_LONGEST = 1_000_000
"""Pixels of a side; no image file that Pillow reads has more."""

_LARGE = 64 << 20
"""Bytes of a file that takes more than a few seconds to parse."""


class InstanceTable(NamedTuple):
    """N images, C categories, and the M pairs of them that have any annotation.

    Attributes:
        files: [N] in the order of their names.
        categories: [C] names, in the order of COCO's ids.
        cells: [M] positions in the flattened [N, C] matrix, ascending.
        largest: [M] the largest share of the image that one non-crowd annotation covers; -1 where
            all are crowds.
    """

    files: npt.NDArray[np.str_]
    categories: npt.NDArray[np.str_]
    cells: npt.NDArray[np.int64]
    largest: npt.NDArray[np.float64]


def parse_instances(path: Path) -> InstanceTable:
    """Read ``path`` and check it; a large one is logged, because it takes some seconds.

    Raises:
        UserError: names the file, the element, and what in it is missing, unknown, double or out
            of range.
    """
    if (size := path.stat().st_size) > _LARGE:
        log.info("reading %s (%d MiB); later starts read the index made of it", path, size >> 20)
    content = read_json(path, without="segmentation")
    if not isinstance(content, dict):
        what = f"expected an object at the top level, found {_excerpt(content)}"
        raise UserError(f"{path} is not a COCO instance file: {what}")
    reader = _Reader()
    _each(path, content, "categories", reader.add_category)
    _each(path, content, "images", reader.add_image)
    _each(path, content, "annotations", reader.add_annotation)
    if reader.notes:
        log.info("%s: read %s", path, "; ".join(sorted(reader.notes)))
    if max(reader.largest.values()) < 0:
        n = len(content["annotations"])
        raise UserError(
            f"{path}: {n} of {n} annotations are crowds ('iscrowd' 1), which no needle has"
        )
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
        self.notes: set[str] = set()  # what was read although COCO writes it otherwise
        self.categories: dict[_Id, str] = {}
        self.named: dict[str, tuple[_Id, str]] = {}
        self.images: dict[str, _Id] = {}
        self.pixels: dict[_Id, int] = {}
        self.largest: dict[tuple[_Id, _Id], float] = {}

    def add_category(self, found: dict[str, Any]) -> None:
        number, name = self._id(found, "id"), found["name"]
        if not (isinstance(name, str) and name.strip()):
            raise _expected("name", name, "a text")
        if number in self.categories:
            raise UserError(f"'id' {_excerpt(number)} is used by two categories")
        plain = "".join(name.replace("_", " ").split()).casefold()
        other, taken = self.named.setdefault(plain, (number, name))
        if other != number:
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
        if number in self.pixels:
            raise UserError(f"'id' {_excerpt(number)} is used by two images")
        if name in self.images:
            raise UserError(f"'file_name' {name!r} is used by two images")
        self.images[name] = number
        self.pixels[number] = self._side(found, "width") * self._side(found, "height")

    def add_annotation(self, found: dict[str, Any]) -> None:
        image, category = self._id(found, "image_id"), self._id(found, "category_id")
        if image not in self.pixels:
            raise UserError(f"'image_id' is {_excerpt(image)}, which no image has as 'id'")
        if category not in self.categories:
            raise UserError(f"'category_id' is {_excerpt(category)}, which no category has as 'id'")
        share = self._area(found) / self.pixels[image]
        if self._is_crowd(found):
            share = -1.0
        self.largest[image, category] = max(share, self.largest.get((image, category), -1.0))

    def table(self) -> InstanceTable:
        # Sorted by name: the order of the JSON's list must not decide which haystacks are drawn.
        files = sorted(self.images)
        rows = {self.images[name]: row for row, name in enumerate(files)}
        ids = sorted(self.categories, key=_rank)
        columns = {number: column for column, number in enumerate(ids)}
        largest = {
            rows[image] * len(columns) + columns[category]: share
            for (image, category), share in self.largest.items()
        }
        cells = sorted(largest)
        return InstanceTable(
            files=np.array(files),
            categories=np.array([self.categories[number] for number in ids]),
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
        raise _expected(key, value, "a whole number or a text")

    def _side(self, found: dict[str, Any], key: str) -> int:
        value = found[key]
        if isinstance(value, int | float) and 1 <= value <= _LONGEST and value == int(value):
            return int(value)
        raise _expected(key, value, f"a whole number of pixels, 1 to {_LONGEST:,}")

    def _is_crowd(self, found: dict[str, Any]) -> bool:
        value = found.get("iscrowd", 0)
        if value is None:
            self.notes.add("'iscrowd' null as 0")
        elif value not in (0, 1):
            raise _expected("iscrowd", value, "0 or 1")
        return bool(value)

    def _area(self, found: dict[str, Any]) -> float:
        area = found.get("area")
        if area is None:
            self.notes.add("the area of 'bbox' where there is no 'area'")
            box = found.get("bbox")
            if not (isinstance(box, list) and len(box) == 4 and all(map(_is_size, box[2:]))):
                raise _expected("bbox", box, "[x, y, width, height], since 'area' is missing")
            area = box[2] * box[3]
        if not _is_size(area):
            raise _expected("area", area, "square pixels, 0 or more")
        return float(area)


def _is_size(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= _LONGEST**2


def _rank(number: _Id) -> tuple[bool, float, str]:
    """Sorts ids as numbers where they are numbers, also in quotation marks, and as texts after."""
    text = str(number)
    numeric = isinstance(number, int) or (text.isdecimal() and len(text) < 20)
    return (False, int(text), text) if numeric else (True, 0, text)


def _expected(key: str, value: Any, what: str) -> UserError:
    return UserError(f"{key!r} is {_excerpt(value)}, expected {what}")


_excerpt = functools.partial(excerpt, most=200)
