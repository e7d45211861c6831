"""Reading image files."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def load_image(path: Path) -> Image.Image:
    """Decodes one image file to RGB.

    Raises:
        ValueError: it is missing, truncated or no image; the message names the file.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError as reason:
        raise ValueError(
            f"image {path} is missing: check data.coco_root, or download the file again"
        ) from reason
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as reason:
        raise ValueError(
            f"image {path} cannot be read ({reason}): it is truncated or not an image; "
            "download it again"
        ) from reason


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, by name.

    Raises:
        ValueError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}: expected one with images ({', '.join(SUFFIXES)})")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"no images in {folder}: expected files ending in {', '.join(SUFFIXES)}")
    return found
