"""Images as they are found: read right, or refused by their own name before the first step."""

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from campaign.broken_json import FIXTURES
from campaign.case import Case, assert_clean, refusal
from campaign.world import Place
from PIL import Image

KIND = "bad images"
BAD = "000000000003.jpg"
"""One of the twelve images, of which all are shown."""


def _picture(kind: str, size: tuple[int, int] = (64, 48), mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 90).convert(mode).save(file, kind)
    return file.getvalue()


def _png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with a true header and whatever chunks."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    made = b"\x89PNG\r\n\x1a\n"
    for name, body in (header, *chunks, (b"IEND", b"")):
        made += struct.pack(">I", len(body)) + name + body
        made += struct.pack(">I", zlib.crc32(name + body))
    return made


JPEG, PNG = _picture("JPEG"), _picture("PNG")
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(MARKER) (w) file closefile\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>'
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)

UNREADABLE: tuple[tuple[str, bytes], ...] = (
    ("empty", b""),
    ("a text", b"hello, world"),
    ("HTML of a failed download", b"<!DOCTYPE html><html>404</html>"),
    ("PostScript", POSTSCRIPT),
    ("a PDF", b"%PDF-1.4\n" + bytes(99)),
    ("an SVG", SVG),
    ("a HEIC", HEIC),
    ("a zip", b"PK\x03\x04" + bytes(99)),
    ("NULs", bytes(4000)),
    ("the first 20 bytes of a JPEG", JPEG[:20]),
    ("the first 8 bytes of a PNG", PNG[:8]),
    ("190 megapixels", _png(19_000, 10_000)),
    ("10^18 pixels", _png(2**31 - 1, 2**31 - 1)),
    ("a PNG of no width", _png(0, 9)),
    ("300 times as wide as high", _picture("PNG", (300, 1))),
    ("300 times as high as wide", _picture("PNG", (1, 300))),
    ("a TIFF cut after its header", _picture("TIFF")[:12]),
    ("a WEBP cut after its header", _picture("WEBP")[:20]),
    ("half a WEBP", _picture("WEBP")[:600]),
    ("half a JPEG", JPEG[: len(JPEG) // 2]),
    ("half a PNG", PNG[: len(PNG) // 2]),
    ("a BMP of a strange header", b"BM" + bytes(60)),
    ("a GIF without a picture", b"GIF89a\x01\0\x01\0\0\0\0;"),
    ("a text of 30 MB in a PNG", _png(
        8, 8, (b"zTXt", b"a\0\0" + zlib.compress(bytes(30 << 20))),
        (b"IDAT", zlib.compress(bytes(25 * 8))))),
)  # fmt: skip
"""Contents whose header shows that they can't be shown, or that have no end."""

DAMAGED: tuple[tuple[str, bytes], ...] = (
    ("a PNG whose data is no zlib", _png(64, 48, (b"IDAT", b"not zlib at all"))),
    ("a PNG with a wrong checksum", PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:]),
    ("half a TIFF", _picture("TIFF")[:3000]),
)
"""Contents whose header is whole, and the rest is not."""

READABLE: tuple[tuple[str, bytes], ...] = (
    ("a PNG named .jpg", PNG),
    ("grey", _picture("JPEG", mode="L")),
    ("black and white", _picture("PNG", mode="1")),
    ("CMYK", _picture("JPEG", mode="CMYK")),
    ("a palette", _picture("PNG", mode="P")),
    ("16 bits a sample", _picture("PNG", mode="I;16")),
    ("a GIF", _picture("GIF", mode="P")),
    ("a WEBP", _picture("WEBP")),
    ("a BMP", _picture("BMP")),
    ("a TIFF", _picture("TIFF")),
    ("one pixel", _picture("PNG", (1, 1))),
    ("a JPEG with more bytes at its end", JPEG + bytes(5000)),
)  # fmt: skip


def _test(place: Place, content: bytes, *more: object) -> list[object]:
    place.copy(FIXTURES / "coco")
    path = place.folder / "coco" / "val2017" / BAD
    path.write_bytes(content.replace(b"MARKER", str(place.marker).encode()))
    names = sorted(f"val2017/{name}" for name in os.listdir(path.parent))
    rows = [
        {
            "conversations": [{"value": "Is there a dog?"}, {"value": answer}],
            "pos_image": [name],
            "neg_image": [names[0] if name != names[0] else names[1]],
        }
        for name in names
        for answer in ("yes", "no")
    ]
    (place.folder / "q.json").write_text(json.dumps(rows))
    config = place.config({"data.coco_root": "coco"})
    return ["test", "--config", config, "--data.test.source", '["q.json"]', "--results", "out"]


def _fit(place: Place, content: bytes) -> list[object]:
    words = _test(place, content)
    return [
        "fit", "--config", words[2], "--data.train.source", "q.json", "--trainer.max_epochs", 1,
        "--data.validate.source", '["q.json"]', "--checkpoint.every_n_train_steps", 1000,
        "--seed_everything", 17,  # the ninth step of twelve is the first to show the image
    ]  # fmt: skip


def _at_once(name: str, content: bytes) -> list[Case]:
    sample = name == "PostScript"
    return [
        refusal(KIND, f"test: {name}", lambda place: _test(place, content), BAD, sample=sample),
        refusal(KIND, f"fit: {name}", lambda place: _fit(place, content), BAD),
    ]


def _in_the_middle(content: bytes) -> Callable[[Place], None]:
    """Found while training: the image is named, and what was trained until then is saved."""

    def check(place: Place) -> None:
        done = place.laid(*_fit(place, content))
        assert done.code == 2, str(done)
        assert_clean(place, done)
        assert BAD in done.err
        (saved,) = (place.folder / "runs" / "run" / "checkpoints").iterdir()
        assert saved.name == "step=8.ckpt"
        (place.folder / "coco" / "val2017" / BAD).write_bytes(JPEG)
        done = place.laid("fit", "--ckpt_path", saved)
        assert done.code == 0, str(done)

    return check


def _tested_in_the_middle(content: bytes) -> Callable[[Place], None]:
    """Found while testing: no results; the answers until then count once it is mended."""

    def check(place: Place) -> None:
        words = _test(place, content)
        done = place.laid(*words)
        assert done.code == 2, str(done)
        assert_clean(place, done)
        assert BAD in done.err
        assert not (place.folder / "out" / "results.json").exists()

    return check


def _is_read(content: bytes) -> Callable[[Place], None]:
    def check(place: Place) -> None:
        done = place.laid(*_test(place, content))
        assert done.code == 0, str(done)
        assert_clean(place, done)

    return check


def _folder(place: Place, files: dict[str, bytes]) -> list[object]:
    folder = place.folder / "photographs"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    question = ("--data.predict.question", "Is there a dog?")
    return [
        "predict", "--config", place.config(), "--data.predict.images", "photographs", *question,
        "--results", "out",
    ]  # fmt: skip


def _shown(files: dict[str, bytes], expected: list[str]) -> Callable[[Place], None]:
    def check(place: Place) -> None:
        done = place.laid(*_folder(place, files))
        assert done.code == 0, str(done)
        assert_clean(place, done)
        line = json.loads((place.folder / "out" / "predictions.jsonl").read_text())
        assert line["images"] == expected

    return check


def _transparent(mode: str) -> Callable[[Place], None]:
    """Black on transparency is seen as black on white: other answers' logits than all black."""

    def check(place: Place) -> None:
        from laid.data.image_files import load_image

        image = Image.new("RGBA", (56, 56), (0, 0, 0, 0))
        image.paste((0, 0, 0, 255), (14, 14, 42, 42))
        if mode == "P":
            image = image.quantize()
        elif mode != "RGBA":
            image = image.convert(mode)
        path: Path = place.folder / "logo.png"
        image.save(path)
        assert load_image(path).getpixel((0, 0)) == (255, 255, 255)
        assert load_image(path).getpixel((28, 28)) == (0, 0, 0)

    return check


def _special(make: Callable[[Path], None]) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        words = _test(place, JPEG)
        path = place.folder / "coco" / "val2017" / BAD
        path.unlink()
        make(path)
        return words

    return prepare


CASES: list[Case] = [
    *(case for name, content in UNREADABLE for case in _at_once(name, content)),
    *(Case(KIND, f"fit: {name}", _in_the_middle(content)) for name, content in DAMAGED),
    *(Case(KIND, f"test: {name}", _tested_in_the_middle(content)) for name, content in DAMAGED),
    *(Case(KIND, f"read: {name}", _is_read(content)) for name, content in READABLE),
    *(Case(KIND, f"transparency in {mode}", _transparent(mode)) for mode in ("RGBA", "LA", "P")),
    refusal(KIND, "a folder of its name", _special(Path.mkdir), BAD),
    refusal(KIND, "a broken link", _special(lambda path: path.symlink_to("nowhere")), BAD),
    refusal(KIND, "a link to itself", _special(lambda path: path.symlink_to(path)), BAD),
    refusal(KIND, "a pipe", _special(os.mkfifo), BAD),
    Case(
        KIND,
        "a folder: AppleDouble files beside images",
        _shown({"1.jpg": JPEG, "._1.jpg": b"\0\5\x16\7", ".DS_Store": b"x"}, ["1.jpg"]),
    ),
    Case(
        KIND,
        "a folder: numbers in names, capitals, all types that are read",
        _shown(
            {
                "10.JPG": JPEG,
                "2.png": PNG,
                "3.jfif": JPEG,
                "4.webp": _picture("WEBP"),
                "a.txt": b"",
            },
            ["2.png", "3.jfif", "4.webp", "10.JPG"],
        ),
    ),
    Case(
        KIND,
        "a folder: an AVIF",
        _shown({"1.avif": _picture("AVIF"), "2.jpg": JPEG}, ["1.avif", "2.jpg"]),
    ),
    refusal(
        KIND,
        "a folder: a HEIC beside images",
        lambda place: _folder(place, {"1.jpg": JPEG, "2.HEIC": HEIC}),
        "2.HEIC",
    ),
    refusal(
        KIND, "a folder: texts alone", lambda place: _folder(place, {"a.txt": b"x"}), "no images in"
    ),
    refusal(
        KIND,
        "a folder: PostScript named .png",
        lambda place: _folder(place, {"1.jpg": JPEG, "2.png": POSTSCRIPT}),
        "2.png",
    ),
    Case(
        KIND,
        "a folder: names with escape codes",
        _shown({"a\x1b[2J\x1b]0;x\x07.jpg": JPEG}, ["a\x1b[2J\x1b]0;x\x07.jpg"]),
    ),
    Case(KIND, "a folder: a formula as a name", _shown({"=cmd().jpg": JPEG}, ["=cmd().jpg"])),
]
