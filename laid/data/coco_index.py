"""Which image of a COCO split holds which objects, from ``annotations/instances_<split>.json``."""

import functools
import hashlib
import io
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from laid.common.cached_files import cache_root, load_cached, save_cached
from laid.common.errors import UserError
from laid.common.file_hashes import file_hashes
from laid.data.coco_instances import InstanceTable, parse_instances
from laid.data.image_names import check_present

log = logging.getLogger(__name__)

# Part of the compact index's file name: raise it when what is stored changes its meaning.
_FORMAT = 4


@dataclass(frozen=True, eq=False)
class CocoIndex:
    """The images of one split and the objects in them, in the order of their file names.

    Needles are taken from ``clear``: the object is there and large enough to be seen. "Does not
    contain" means not ``present``. An image whose only dog is a speck, or part of a region marked
    as a crowd, counts as neither: to ask about it would be to ask about the annotator's eyesight,
    and to call it an image without dogs would be a lie.

    Attributes:
        root: the folder that ``files`` are relative to.
        split: for instance ``train2017``.
        categories: C names, by COCO's category id.
        files: [N] paths such as ``train2017/000000000009.jpg``.
        clear: [N, C] a non-crowd annotation covers at least ``min_area`` of the image.
        present: [N, C] there is any annotation at all, crowds and specks included.
    """

    root: Path
    split: str
    categories: tuple[str, ...]
    files: npt.NDArray[np.str_]
    clear: npt.NDArray[np.bool_]
    present: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.files)

    @classmethod
    def load(
        cls,
        root: str | Path,
        split: str,
        min_area: float = 0.001,
        check_images: bool = False,
    ) -> "CocoIndex":
        """Read ``<root>/annotations/instances_<split>.json``; the images are in ``<root>/<split>``.

        The first time the JSON is parsed (seconds for COCO's training split) and a compact index
        saved in the cache under a hash of the JSON's content; afterwards that index is read,
        whatever ``min_area``. A damaged one is made again.

        Args:
            root: COCO's folder.
            split: the part of the annotation file's name after ``instances_``.
            min_area: smallest area of a clear object, as a share of its image's, in [0, 1).
            check_images: make sure that all images are on the disk.

        Raises:
            UserError: the folder, the JSON or an image is missing, the JSON is not COCO's or
                contradicts itself, or ``min_area`` is out of range.
        """
        if not 0 <= min_area < 1:
            raise UserError(
                f"min_area is a share of the image's area, at least 0 and below 1; got {min_area}. "
                "COCO's small objects are around 0.001."
            )
        root = Path(root)
        path = _annotation_file(root, split)
        table = _cached_table(path)
        clear, present = np.zeros((2, len(table.files), len(table.categories)), dtype=bool)
        present.flat[table.cells] = True
        clear.flat[table.cells[table.largest >= min_area]] = True
        files = [f"{split}/{name}" for name in table.files.tolist()]
        if check_images:
            check_present(root, files, path.name)
        categories = tuple(table.categories.tolist())
        return cls(root, split, categories, np.array(files), clear, present)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hexadecimal hash of what haystacks are drawn from: names, categories, both matrices."""
        names = json.dumps([self.split, self.categories, self.files.tolist()])
        digest = hashlib.sha256(names.encode())
        for matrix in (self.clear, self.present):
            digest.update(np.packbits(matrix).tobytes())
        return digest.hexdigest()


def _annotation_file(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise UserError(
            f"there is no COCO folder {str(root)!r}. It should hold annotations/ and {split}/."
        )
    path = root / "annotations" / f"instances_{split}.json"
    if not path.is_file():
        found = sorted(p.name for p in root.glob("annotations/instances_*.json"))
        raise UserError(
            f"{path} is missing; found {', '.join(found) or 'no instances_*.json'} in "
            f"{path.parent}. COCO's are in annotations_trainval2017.zip."
        )
    return path


def _cached_table(path: Path) -> InstanceTable:
    """What the annotation file says, kept in the cache under a hash of the file's content."""
    (sha256,) = file_hashes([path])
    saved = cache_root() / "coco" / f"{sha256[:32]}-v{_FORMAT}"
    if (content := load_cached(saved)) is not None:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return InstanceTable(**archive)
    table = parse_instances(path)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **table._asdict())
    try:
        save_cached(saved, buffer.getvalue())
    except OSError as error:
        log.warning(
            "the COCO index can't be saved (%s), so every start parses %s again: set LAID_CACHE to "
            "a folder that can be written",
            error,
            path.name,
        )
    return table
