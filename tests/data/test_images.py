"""Image files of every kind that people have."""

import pytest
from PIL import Image

from laid.data.image_files import images_in, load_image


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_every_mode_becomes_rgb_of_the_same_brightness(tmp_path, mode, suffix):
    path = tmp_path / f"a.{suffix}"
    if mode == "I;16":
        image = Image.new("I;16", (20, 10), 128 * 256)
    else:
        image = Image.new("RGB", (20, 10), (128, 128, 128)).convert(mode)
    try:
        image.save(path)
    except OSError:
        pytest.skip(f"PIL does not write {mode} as {suffix}")
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
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        load_image(path)


def test_a_folders_images_come_in_the_order_that_people_count(tmp_path):
    for name in ("10.jpg", "2.jpg", "1.PNG", "b.jpg", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    assert [p.name for p in images_in(tmp_path)] == ["1.PNG", "2.jpg", "10.jpg", "b.jpg"]
    with pytest.raises(ValueError, match="no images in"):
        images_in(tmp_path / "folder.jpg")
