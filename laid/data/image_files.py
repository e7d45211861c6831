"""Reading image files."""

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from laid.common.errors import UserError
from laid.data.image_names import ImageRoots, resolve_under

log = logging.getLogger(__name__)

Process = Callable[[Sequence[Image.Image]], Any]
"""An image processor."""

Image.init()
_FORMATS = tuple(
    name
    for name in ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
    if name in Image.OPEN
)
"""What is tried on a file, whatever its name. PostScript is not: Pillow would start Ghostscript."""
_SUFFIXES = frozenset(
    suffix for suffix, name in Image.registered_extensions().items() if name in _FORMATS
)
_UNREAD = frozenset(
    f".{name}"
    for name in (
        *("heic", "heif", "hif", "jxl", "jp2", "psd", "svg", "eps", "ps", "tga", "ico"),
        *("dng", "cr2", "cr3", "nef", "arw", "raf", "orf", "rw2"),
    )
)
"""Suffixes of images in other formats."""
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
"""What such files end with; a download that broke off does not."""
_AFTER_THE_END = 64
"""Bytes that may follow it."""
_ELONGATED = 10
"""Ratio of sides from which an image is tried on the image processor before it is needed."""


def load_image(path: Path) -> Image.Image:
    """Decodes one image file to RGB, upright as its EXIF says; of an animation the first frame.

    What is transparent is put on white, as Qwen's own reader does
    (``qwen_vl_utils.vision_process.to_rgb``) and so published results were made.

    Raises:
        UserError: it is missing, in no format that is read, damaged or too large; names it.
    """
    with _opened(path) as file:
        image: Image.Image = file
        if image.mode.startswith("I"):
            # PIL clips 16-bit grey at 255 where it should scale.
            image = image.point(lambda value: value / 256, "L")
        image = ImageOps.exif_transpose(image)
        if not image.has_transparency_data:
            return image.convert("RGB")
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white


def check_images(
    root: Path | ImageRoots, names: Iterable[str], process: Process
) -> dict[str, tuple[int, int]]:
    """Looks at the header of every image, so that none stops a run in the middle.

    Args:
        root: the folder that ``names`` are relative to.
        names: the image files.
        process: the image processor; an elongated image is tried on it, blank.

    Returns:
        Width and height of each, upright.

    Raises:
        UserError: as ``load_image``, but for damage within a file that has its end; or the
            processor refuses the sides. Names the file.
    """
    tried: set[tuple[int, int]] = set()
    sizes = {}
    for name in tqdm(sorted(set(names)), "checking images", unit="image", delay=3):
        path = resolve_under(root, name)
        with _opened(path) as image:
            size = sizes[name] = _upright_size(image)
            if not _has_end(path, image.format):
                image.load()
        if max(size) > _ELONGATED * min(size) and size not in tried:
            tried.add(size)
            _process([path], [Image.new("RGB", size)], process)
    return sizes


def patches_of(root: Path | ImageRoots, names: Iterable[str], process: Process) -> Any:
    """What ``process`` makes of image files below ``root``.

    Raises:
        UserError: as ``check_images``.
    """
    paths = [resolve_under(root, name) for name in names]
    return _process(paths, [load_image(path) for path in paths], process)


def _process(paths: Sequence[Path], images: Sequence[Image.Image], process: Process) -> Any:
    try:
        return process(images)
    except ValueError as reason:
        for path, image in zip(paths, images, strict=True):
            try:
                process([image])
            except ValueError as alone:
                width, height = image.size
                raise UserError(f"image {path} is {width} x {height} pixels: {alone}") from reason
        raise


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, by name; 2.jpg comes before 10.jpg.

    Hidden files are passed over (macOS writes ``._1.jpg`` beside 1.jpg), and other files and
    folders, which are logged.

    Raises:
        UserError: no such folder, no image in it, or one in a format that is not read.
    """
    suffixes = ", ".join(sorted(_SUFFIXES))
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: expected one with images ({suffixes})")
    shown = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    files = [p for p in shown if p.is_file()]
    if unread := [p.name for p in files if p.suffix.lower() in _UNREAD]:
        raise UserError(
            f"{folder} has {len(unread)} image(s) in a format that is not read: "
            f"{', '.join(unread[:3])}. Convert them to JPEG or PNG, or take them out."
        )
    found = {p for p in files if p.suffix.lower() in _SUFFIXES}
    if not found:
        raise UserError(f"no images in {folder}: expected files ending in {suffixes}")
    if others := [p.name for p in shown if p not in found]:
        log.warning("%s: passed over %s: no image files", folder, ", ".join(others[:5]))
    return sorted(found, key=_natural)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    if image.format == "TIFF":  # Pillow gives its size upright
        return width, height
    # PNG's own method would decode the whole image, to look for EXIF at its end.
    turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def _has_end(path: Path, kind: str | None) -> bool:
    """Whether the file ends as its format does; true where that is not known."""
    if kind not in _ENDS:
        return True
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _AFTER_THE_END))
        return _ENDS[kind] in file.read()


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image file, its header read; what goes wrong with it in the block names the file."""
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise UserError(f"image {path} cannot be read: it is no file")
    try:
        with Image.open(path, formats=_FORMATS) as image:
            yield image
    except FileNotFoundError as reason:
        raise UserError(f"image {path} is missing") from reason
    except UnidentifiedImageError as reason:
        with path.open("rb") as file:
            start = file.read(12)
        raise UserError(
            f"{path} is no image in a format that is read ({', '.join(_FORMATS)}): "
            + (f"it begins with {start!r}" if start else "it is empty")
        ) from reason
    except Image.DecompressionBombError as reason:
        pixels = re.search(r"\d+", str(reason))
        raise UserError(
            f"image {path} has {int(pixels[0]) if pixels else 0:,} pixels, more than the "
            f"{2 * (Image.MAX_IMAGE_PIXELS or 0):,} that are read: make it smaller"
        ) from reason
    # Whatever a decoder raises on damaged content.
    except (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError) as reason:
        raise UserError(f"image {path} cannot be read: {reason}") from reason


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
