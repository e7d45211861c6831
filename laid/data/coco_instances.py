"""Parse a COCO instance file into a small table: which category covers how much of which image."""

import json
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from laid.common.errors import UserError
from laid.data.image_names import clean_name
from laid.data.json_stream import JsonStream

# Arrays over N images, C categories and the M pairs of them that have any annotation:
#   files, widths, heights  [N]  in the order of the file names
#   categories              [C]  names, in the order of COCO's ids
#   cells                   [M]  positions in the flattened [N, C] matrix, ascending
#   largest                 [M]  the largest share of the image that one non-crowd annotation
#                                covers; -1 where all are crowds
Table = dict[str, npt.NDArray[Any]]
TABLE_NAMES = ("files", "widths", "heights", "categories", "cells", "largest")

_MEMBERS = ("images", "annotations", "categories")


def parse_instances(path: Path) -> Table:
    """Read ``path``, with a progress bar if it takes long, and check it.

    Raises:
        UserError: names the file and what in it is missing, unknown, double or out of range.
    """
    columns = _Columns(path)
    with tqdm(
        total=path.stat().st_size,
        desc=f"indexing {path.name}",
        unit="B",
        unit_scale=True,
        delay=1,
        mininterval=0.5,
    ) as bar:
        stream = JsonStream(path, _MEMBERS, blot=("segmentation",), progress=bar.update)
        for member, value in stream:
            try:
                columns.add(member, value)
            except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
                what = f"has no {error}" if isinstance(error, KeyError) else f"is wrong: {error}"
                raise UserError(
                    f"{path}: an element of {member!r} {what}. It reads {json.dumps(value)[:200]}"
                ) from error
    missing = [member for member in _MEMBERS if member not in stream.keys]
    if missing:
        raise UserError(
            f"{path} is not a COCO instance file: it has no {missing}, only {sorted(stream.keys)}."
        )
    return columns.table()


class _Columns:
    """What is kept of the file, a column each, until all of it has been read.

    Images, annotations and categories may come in any order, so they can be joined only then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: list[str] = []
        self.ids, self.widths, self.heights = array("q"), array("q"), array("q")
        self.of_image, self.of_category = array("q"), array("q")
        self.areas, self.crowds = array("d"), array("b")
        self.categories: dict[int, str] = {}

    def add(self, member: str, value: Any) -> None:
        if member == "annotations":
            self.of_image.append(value["image_id"])
            self.of_category.append(value["category_id"])
            self.areas.append(value["area"])
            self.crowds.append(value.get("iscrowd", 0))
        elif member == "images":
            self.files.append(clean_name(self.path.parent, value["file_name"]))
            self.ids.append(value["id"])
            self.widths.append(value["width"])
            self.heights.append(value["height"])
        elif member == "categories":
            number, name = value["id"], value["name"]
            if not (isinstance(number, int) and isinstance(name, str) and name):
                raise TypeError("a category has a whole number as id and a name")
            if number in self.categories or name in self.categories.values():
                raise UserError("its id or its name occurs twice")
            self.categories[number] = name

    def table(self) -> Table:
        if not (self.files and self.categories and len(self.areas)):
            raise UserError(
                f"{self.path} has {len(self.files)} images, {len(self.areas)} annotations and "
                f"{len(self.categories)} categories; haystacks need some of each. (COCO's "
                "image_info files carry no annotations.)"
            )
        # Sorted by name: the order of the JSON's list must not decide which haystacks are drawn.
        by_name = np.argsort(np.array(self.files))
        files = np.array(self.files)[by_name]
        ids, widths, heights = (
            np.array(column)[by_name] for column in (self.ids, self.widths, self.heights)
        )
        self._check(files, ids, widths, heights)
        names = dict(sorted(self.categories.items()))
        rows = self._positions(ids, np.array(self.of_image), "belongs to image")
        columns = self._positions(np.array(list(names)), np.array(self.of_category), "has category")
        cells, inverse = np.unique(rows * len(names) + columns, return_inverse=True)
        largest = np.full(len(cells), -1.0)
        share = np.array(self.areas) / (widths[rows] * heights[rows])
        np.maximum.at(largest, inverse, np.where(np.array(self.crowds) != 0, -1.0, share))
        return {
            "files": files,
            "widths": widths,
            "heights": heights,
            "categories": np.array(list(names.values())),
            "cells": cells,
            "largest": largest,
        }

    def _check(
        self,
        files: npt.NDArray[np.str_],
        ids: npt.NDArray[np.int64],
        widths: npt.NDArray[np.int64],
        heights: npt.NDArray[np.int64],
    ) -> None:
        for what, column in (("image id", ids), ("file name", files)):
            values, counts = np.unique(column, return_counts=True)
            if counts.max() > 1:
                twice = values[counts.argmax()]
                raise UserError(f"{self.path}: {what} {twice} is used by two images.")
        for at in np.flatnonzero((widths <= 0) | (heights <= 0))[:1]:
            raise UserError(
                f"{self.path}: image {files[at]} is {widths[at]} x {heights[at]} pixels; both "
                "must be positive."
            )
        areas = np.array(self.areas)
        for at in np.flatnonzero(~(np.isfinite(areas) & (areas >= 0)))[:1]:
            raise UserError(
                f"{self.path}: an annotation of image {self.of_image[at]} has area {areas[at]}; "
                "expected square pixels, 0 or more."
            )

    def _positions(
        self, known: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64], what: str
    ) -> npt.NDArray[np.int64]:
        """Where in ``known`` (distinct ids) each of ``wanted`` is; ``what`` words the complaint."""
        order = np.argsort(known)
        slots = np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)
        positions = order[slots]
        for at in np.flatnonzero(known[positions] != wanted)[:1]:
            raise UserError(
                f"{self.path}: an annotation {what} id {wanted[at]}, which the file does not list."
            )
        return positions
