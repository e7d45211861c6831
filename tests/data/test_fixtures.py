"""The small files in tests/fixtures: they are what make.py draws, and are read as they should."""

import runpy
import shutil

import numpy as np
import pytest
from PIL import Image

from laid.data.coco_index import CocoIndex
from laid.data.entries import HaystackEntry
from laid.data.haystack_builder import build_entries
from laid.data.image_files import load_image
from laid.data.prompt import HaystackDataset
from laid.data.vhs_files import load_entries


@pytest.fixture(scope="module")
def maker(small_coco):
    """What make.py defines."""
    return runpy.run_path(str(small_coco.parent / "make.py"))


def pixels(path):
    return np.asarray(load_image(path)).astype(int)


def test_they_are_what_the_script_makes(maker, small_coco, tmp_path):
    folder = small_coco.parent
    maker["make"](tmp_path)
    made = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    kept = {p.relative_to(folder) for p in folder.rglob("*") if p.suffix in (".json", ".jpg")}
    assert set(made) == kept
    for name in made:
        if name.suffix == ".jpg":  # another libjpeg may round otherwise
            difference = pixels(tmp_path / name) - pixels(folder / name)
            assert np.abs(difference).mean() < 2, name
        else:
            assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_every_encoding_of_a_jpeg_is_read_upright_and_in_its_colours(maker, small_coco):
    for number, encoding in enumerate(maker["ENCODINGS"], 1):
        expected = maker["picture"](number)
        if encoding == "grayscale":
            expected = expected.convert("L").convert("RGB")
        path = small_coco / "val2017" / maker["name_of"](number)
        with Image.open(path) as stored:
            assert (stored.size == (48, 64)) == (encoding in ("exif-5", "exif-6", "exif-8"))
            assert (stored.mode == "CMYK") == (encoding == "cmyk")
        found = pixels(path)
        assert found.shape == (48, 64, 3)
        # JPEG blurs edges, so most pixels and not all.
        close = np.abs(found - np.asarray(expected)).max(axis=2) < 24
        assert close.mean() > 0.85, encoding


def test_the_index_is_what_was_drawn(maker, small_coco):
    index = CocoIndex.load(small_coco, "val2017", check_images=True)
    assert index.categories == ("person", "cat", "dog")
    for column, kind in enumerate(sorted(maker["CATEGORIES"])):
        clear = set(maker["SHOWN"][kind])
        assert {row + 1 for row in np.flatnonzero(index.clear[:, column])} == clear
    doubtful = np.argwhere(index.present & ~index.clear)
    assert doubtful.tolist() == [[maker["SPECK"] - 1, 2], [maker["CROWD"] - 1, 1]]


@pytest.mark.parametrize(
    ("dialect", "said"),
    [
        ("minimal", None),
        ("no_iscrowd", None),
        ("byte_order_mark", "begins with a byte order mark"),
        ("text_ids", "ids that are texts"),
        ("whole_floats", "whole numbers that are written as floats"),
        ("null_iscrowd", "'iscrowd' null as 0"),
        ("no_area", "the area of 'bbox' where there is no 'area'"),
    ],
)
def test_every_dialect_gives_the_same_index_and_is_said_once(
    small_coco, tmp_path, own_cache, dialect, said, logged
):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    shutil.copy(
        small_coco.parent / "coco_dialects" / f"{dialect}.json",
        tmp_path / "annotations" / "instances_val2017.json",
    )
    expected = CocoIndex.load(small_coco, "val2017").fingerprint
    logged.clear()
    for _ in range(2):
        assert CocoIndex.load(tmp_path, "val2017").fingerprint == expected
    assert len(logged) == (said is not None)
    assert said is None or said in logged[0]
    assert all("instances_val2017.json" in message for message in logged)


def test_published_files_are_read_and_their_answers_are_true(maker, small_coco):
    shown = {
        name: {f"val2017/{maker['name_of'](number)}" for number in maker["SHOWN"][kind]}
        for kind, name in maker["CATEGORIES"].items()
    }
    count = 0
    for path in sorted((small_coco.parent / "vhs").iterdir()):
        for entry in map(HaystackEntry.of, load_entries(str(path), small_coco)):
            needles = {entry.images[at] for at in entry.needles}
            assert set(entry.images) & shown[entry.anchor] == needles
            holds = [name in shown[entry.target] for name in needles]
            assert entry.mode == ("single" if len(needles) == 1 else entry.question.split()[7])
            assert entry.answer == ("yes" if (any if entry.mode == "any" else all)(holds) else "no")
            count += 1
    assert count == 8


def test_haystacks_of_jpegs_are_built_and_encoded(small_coco, encoder):
    entries = build_entries(CocoIndex.load(small_coco, "val2017"), "test", [2, 4], per_size=4)
    data = HaystackDataset(entries, small_coco, encoder, with_answer=True)
    for index in range(len(data)):
        sample = data[index]
        assert sample.inputs.images == sample.entry.size
        assert len(sample.inputs.pixel_values_PC) == sample.inputs.image_grid_thw_I3.prod(-1).sum()
