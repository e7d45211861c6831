"""The drawn data set: COCO's layout, true annotations, and the same bytes from the same seed."""

import filecmp
import json
import signal

import numpy as np
import pytest
from PIL import Image, ImageDraw

from laid.data.coco_index import CocoIndex
from laid.data.coco_names import COCO_NAMES
from laid.minicoco.drawing import SIDE, draw_minicoco, ensure_minicoco
from laid.minicoco.glyphs import CATEGORIES

FEW = {"train2017": 12, "val2017": 8}


def annotations(root, split):
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def files_below(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def test_it_is_read_like_coco(drawn):
    for split in ("train2017", "val2017"):
        index = CocoIndex.load(drawn, split, check_images=True)
        assert len(index) == 120
        assert index.categories == tuple(CATEGORIES.values())
        assert (index.clear == index.present).all(), "every object is large enough to be seen"
        assert set(index.clear.sum(axis=1).tolist()) == {2, 3, 4}
        assert index.clear.sum(axis=0).min() > 0


def test_the_categories_are_single_words_of_coco():
    assert len(CATEGORIES) == 24
    assert set(CATEGORIES.values()) <= set(COCO_NAMES)
    assert all(name.isalpha() for name in CATEGORIES.values())


def test_outline_box_and_area_tell_of_the_same_object(drawn):
    coco = annotations(drawn, "val2017")
    for annotation in coco["annotations"]:
        points = np.array(annotation["segmentation"][0]).reshape(-1, 2)
        x, y, width, height = annotation["bbox"]
        assert points.min(axis=0) == pytest.approx([x, y], abs=0.02)
        assert points.max(axis=0) == pytest.approx([x + width, y + height], abs=0.02)
        assert points.min() >= 0
        assert points.max() <= SIDE
        canvas = Image.new("L", (SIDE * 8, SIDE * 8))
        ImageDraw.Draw(canvas).polygon([tuple(p) for p in points * 8], fill=1)
        assert np.asarray(canvas).sum() / 64 == pytest.approx(annotation["area"], rel=0.06)
        assert annotation["area"] > 0.015 * SIDE**2


def test_objects_of_one_image_do_not_overlap_and_differ(drawn):
    by_image = {}
    for annotation in annotations(drawn, "val2017")["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    for objects in by_image.values():
        assert len({o["category_id"] for o in objects}) == len(objects)
        cells = [
            tuple((o["bbox"][k] + o["bbox"][k + 2] / 2) // 28 for k in (0, 1)) for o in objects
        ]
        assert len(set(cells)) == len(cells)


def test_the_object_is_drawn_where_the_annotation_says(drawn):
    """Objects are vividly coloured, the background is greyish."""
    coco = annotations(drawn, "val2017")
    inside, outside = [], []
    for image in coco["images"][:60]:
        with Image.open(drawn / "val2017" / image["file_name"]) as opened:
            assert opened.size == (SIDE, SIDE)
            pixels = np.asarray(opened.convert("RGB")).astype(int)
        vivid = pixels.max(axis=2) - pixels.min(axis=2)
        mask = Image.new("L", (SIDE, SIDE))
        for annotation in coco["annotations"]:
            if annotation["image_id"] == image["id"]:
                points = annotation["segmentation"][0]
                ImageDraw.Draw(mask).polygon(
                    list(zip(points[::2], points[1::2], strict=True)), fill=1
                )
        covered = np.asarray(mask).astype(bool)
        inside.append(vivid[covered].mean())
        outside.append(vivid[~covered].mean())
    assert min(inside) > 80
    assert max(outside) < 50


def test_the_nearest_mean_of_glyph_pixels_tells_colours_apart(drawn):
    """A category's hue is its own: six groups of four categories, none nearer to another's."""
    coco = annotations(drawn, "val2017")
    kinds = {number: k for k, number in enumerate(CATEGORIES)}
    colours, groups = [], []
    for annotation in coco["annotations"]:
        with Image.open(drawn / "val2017" / f"{annotation['image_id']:012d}.png") as image:
            pixels = np.asarray(image.convert("RGB")).astype(float)
        x, y, w, h = annotation["bbox"]
        part = pixels[int(y) : int(y + h), int(x) : int(x + w)].reshape(-1, 3)
        vivid = part[np.ptp(part, axis=1) > 60].mean(axis=0)
        colours.append((vivid - vivid.min()) / np.ptp(vivid))
        groups.append(kinds[annotation["category_id"]] // 4)
    colours, groups = np.array(colours), np.array(groups)
    half = len(groups) // 2
    means = np.stack([colours[:half][groups[:half] == g].mean(axis=0) for g in range(6)])
    nearest = ((colours[half:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == groups[half:]).mean() > 0.97


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    first, second = (draw_minicoco(tmp_path / name, seed=5, images=FEW) for name in "ab")
    names = files_below(first)
    assert names == files_below(second)
    assert len(names) == 12 + 8 + 2
    assert filecmp.cmpfiles(first, second, names, shallow=False)[0] == names


def test_seed_and_split_change_every_image_and_the_number_of_images_none(tmp_path):
    first = draw_minicoco(tmp_path / "a", seed=5, images=FEW)
    other = draw_minicoco(tmp_path / "b", seed=6, images=FEW)
    more = draw_minicoco(tmp_path / "c", seed=5, images={"train2017": 14})
    read = [
        {p.read_bytes() for p in folder.iterdir()}
        for folder in (first / "train2017", first / "val2017", other / "train2017")
    ]
    assert [len(r) for r in read] == [12, 8, 12]
    assert len(set.union(*read)) == 32
    assert read[0] < {p.read_bytes() for p in (more / "train2017").iterdir()}


@pytest.fixture
def drawn_cache(own_cache):
    return own_cache / "minicoco"


def test_the_cached_one_is_drawn_once(drawn_cache):
    root = ensure_minicoco(images=FEW)
    image = root / "val2017" / "000000000001.png"
    stamp = image.stat().st_mtime_ns
    assert ensure_minicoco(images=FEW) == root
    assert image.stat().st_mtime_ns == stamp
    assert ensure_minicoco(seed=1, images=FEW) != root
    assert len(list(drawn_cache.iterdir())) == 2


@pytest.mark.parametrize("harm", ["removed", "added", "swapped", "flipped", "other annotations"])
def test_a_cached_one_that_is_not_as_it_was_drawn_is_drawn_again(drawn_cache, harm, caplog):
    root = ensure_minicoco(images=FEW)
    whole = {name: (root / name).read_bytes() for name in files_below(root)}
    one, two = (root / "val2017" / f"00000000000{k}.png" for k in (1, 2))
    if harm == "removed":
        one.unlink()
    elif harm == "added":
        one.with_name("x.png").touch()
    elif harm == "swapped":
        one.rename(root / "x")
        two.rename(one)
        (root / "x").rename(two)
    elif harm == "flipped":
        one.write_bytes(whole["val2017/000000000001.png"][:-1] + b"x")
    else:
        (root / "annotations" / "instances_val2017.json").write_text("{}")
    with caplog.at_level("WARNING", "laid"):
        ensure_minicoco(images=FEW)
    assert {name: (root / name).read_bytes() for name in files_below(root)} == whole
    assert "is made again" in caplog.text
    assert len(list(drawn_cache.iterdir())) == 1


def test_ctrl_c_while_it_is_drawn_leaves_nothing(drawn_cache):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            ensure_minicoco()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert list(drawn_cache.glob("*")) == []
