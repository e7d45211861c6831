"""Reading image files."""

import re
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from laid.common.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def load_image(path: Path) -> Image.Image:
    """Decodes one image file to RGB, upright as its EXIF says; of an animation the first frame.

    Raises:
        UserError: it is missing, truncated or no image; the message names the file.
    """
    try:
        with Image.open(path) as file:
            image: Image.Image = file
            if image.mode.startswith("I"):
                # PIL clips 16-bit grey at 255 where it should scale.
                image = image.point(lambda value: value / 256, "L")
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError as reason:
        raise UserError(
            f"image {path} is missing: check data.coco_root, or download the file again"
        ) from reason
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as reason:
        raise UserError(
            f"image {path} cannot be read ({reason}): it is truncated or not an image; "
            "download it again"
        ) from reason


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, by name; 2.jpg comes before 10.jpg.

    Raises:
        UserError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: expected one with images ({', '.join(SUFFIXES)})")
    files = [p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES]
    found = sorted(files, key=_natural)
    if not found:
        raise UserError(f"no images in {folder}: expected files ending in {', '.join(SUFFIXES)}")
    return found


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
