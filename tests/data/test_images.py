"""Image files of every kind that people have."""

import os
import shutil
from contextlib import suppress

import pytest
from PIL import EpsImagePlugin, Image

from laid.common.errors import UserError
from laid.data.coco_index import CocoIndex
from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import EvaluationArgs
from laid.data.haystack_builder import build_entries
from laid.data.image_files import check_images, images_in, load_image
from laid.data.prompt import HaystackDataset


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        *(("png", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
        *(("jpg", mode) for mode in ("RGB", "L", "CMYK", "1")),
        *(("tif", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16")),
    ],
)
def test_every_mode_becomes_rgb_of_the_same_brightness(tmp_path, mode, suffix):
    path = tmp_path / f"a.{suffix}"
    if mode == "I;16":
        image = Image.new("I;16", (20, 10), 128 * 256)
    else:
        image = Image.new("RGB", (20, 10), (128, 128, 128)).convert(mode)
    image.save(path)
    loaded = load_image(path)
    assert loaded.mode == "RGB"
    assert loaded.size == (20, 10)
    grey = sum(loaded.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))) / 3
    assert abs(grey - 128) < 20


def test_a_photograph_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (30, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").size == (10, 30)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_what_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.jpg"):
        load_image(path)


KEYED = {"RGB": (9, 9, 9), "L": 9}  # a colour that stands for transparent


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *(("RGBA", suffix) for suffix in ("png", "webp", "gif", "tif", "avif")),
        *(("LA", suffix) for suffix in ("png", "webp", "tif")),
        ("P", "png"),
        ("RGB", "png"),
        ("L", "png"),
        ("L", "gif"),
    ],
)
def test_what_is_transparent_is_white(tmp_path, mode, suffix):
    """A black square on a transparent ground, in every way to be transparent."""
    options = {"lossless": True} if suffix == "webp" else {}
    if mode in KEYED:
        image = Image.new(mode, (32, 32), KEYED[mode])
        options["transparency"] = KEYED[mode]
    else:
        image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    black = {"RGB": (0, 0, 0), "L": 0, "RGBA": (0, 0, 0, 255)}[image.mode]
    image.paste(black, (8, 8, 24, 24))
    image = image.quantize() if mode == "P" else image.convert(mode)
    path = tmp_path / f"a.{suffix}"
    image.save(path, **options)
    with Image.open(path) as stored:
        assert stored.has_transparency_data
    loaded = load_image(path)
    assert (loaded.mode, loaded.getpixel((0, 0))) == ("RGB", (255, 255, 255))
    assert max(loaded.getpixel((16, 16))) < 10


def test_half_transparent_is_half_way_to_white_and_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGBA", (30, 10), (100, 0, 200, 128)).save(tmp_path / "a.png", exif=exif)
    loaded = load_image(tmp_path / "a.png")
    assert loaded.size == (10, 30)
    assert loaded.getpixel((5, 5)) == pytest.approx((177, 127, 227), abs=1)


def test_postscript_is_not_run_whatever_its_name(tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    script = tmp_path / "gs"
    script.write_text(f"#!/bin/sh\ntouch {ran}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    for name in ("a.png", "a.jpg", "a.eps"):
        path = tmp_path / name
        path.write_bytes(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
        )
        with pytest.raises(UserError, match=rf"{name} is no image .* begins with b'%!PS"):
            load_image(path)
    assert not ran.exists()
    # The trap works: it is Pillow's own way that would have run it.
    with Image.open(tmp_path / "a.png") as opened, suppress(OSError):
        opened.load()
    assert ran.exists()


def test_too_many_pixels_are_called_that(tmp_path):
    Image.new("1", (19_000, 10_000)).save(tmp_path / "large.png")
    for read in (load_image, lambda path: check_images(tmp_path, ["large.png"], len)):
        with pytest.raises(
            UserError, match=r"large\.png has 190,000,000 pixels, more than"
        ) as caught:
            read(tmp_path / "large.png")
        assert "truncated" not in str(caught.value)


def test_damaged_content_is_named_with_what_the_decoder_says(tmp_path, small_coco):
    whole = (small_coco / "val2017" / "000000000005.jpg").read_bytes()
    for at in range(2, len(whole), 97):
        path = tmp_path / "cut.jpg"
        path.write_bytes(whole[:at])
        with pytest.raises(UserError, match=r"cut\.jpg"):
            load_image(path)


@pytest.mark.parametrize("content", [b"", b"%!PS", "narrow", "large", "cut"])
def test_every_image_is_looked_at_before_the_first_step(small_coco, pair, tmp_path, content):
    shutil.copytree(small_coco, tmp_path / "coco")
    path = tmp_path / "coco" / "val2017" / "000000000011.jpg"
    if content == "narrow":
        Image.new("RGB", (1, 300)).save(path)
    elif content == "large":
        Image.new("1", (19_000, 10_000)).save(path, "PNG")
    elif content == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    else:
        path.write_bytes(content)
    sources = [str(small_coco.parent / "vhs" / "visual_haystack_5.json")]
    data = HaystackDataModule(
        str(tmp_path / "coco"), str(pair[0]), test=EvaluationArgs(source=sources)
    )
    with pytest.raises(UserError, match=r"000000000011\.jpg") as caught:
        data.setup("test")
    assert str(caught.value).count(".jpg") == 1


def test_of_many_images_the_one_that_does_not_fit_is_named(small_coco, encoder, tmp_path):
    shutil.copytree(small_coco, tmp_path / "coco")
    entries = build_entries(CocoIndex.load(tmp_path / "coco", "val2017"), "test", [4], per_size=2)
    (name, *others) = entries[0]["images"]
    Image.new("RGB", (300, 1)).save(tmp_path / "coco" / name)
    data = HaystackDataset(entries, tmp_path / "coco", encoder, with_answer=False)
    with pytest.raises(UserError, match=rf"{name} is 300 x 1 pixels") as caught:
        data[0]
    assert not any(other in str(caught.value) for other in others)


def test_a_folders_images_come_in_the_order_that_people_count(tmp_path, logged):
    for name in ("10.jpg", "2.jpg", "1.PNG", "b.jpg", "notes.txt", "._1.jpg", ".DS_Store"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    assert [p.name for p in images_in(tmp_path)] == ["1.PNG", "2.jpg", "10.jpg", "b.jpg"]
    assert len(logged) == 1
    assert "passed over folder.jpg, notes.txt: no image files" in logged[0]
    with pytest.raises(UserError, match="no images in"):
        images_in(tmp_path / "folder.jpg")


def test_photographs_of_a_telephone_are_read_or_named(tmp_path):
    for name, kind in (("a.jpg", "JPEG"), ("b.jfif", "JPEG"), ("c.avif", "AVIF")):
        Image.new("RGB", (64, 48), "teal").save(tmp_path / name, kind)
    assert [load_image(path).size for path in images_in(tmp_path)] == [(64, 48)] * 3
    (tmp_path / "d.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(UserError, match=r"1 image\(s\) in a format that is not read: d\.HEIC"):
        images_in(tmp_path)
