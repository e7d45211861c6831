"""The COCO index: what it says of an image, what it refuses, and its cache."""

import json
import threading

import numpy as np
import pytest

from laid.common.atomic_files import atomic_dir, atomic_write_text
from laid.common.cached_files import cache_root
from laid.common.errors import UserError
from laid.data.coco_index import CocoIndex
from laid.data.image_names import check_present


def load(root, **settings):
    return CocoIndex.load(root, "val2017", **settings)


def cached(folder):
    return [path for path in folder.iterdir() if path.is_file()]


def test_large_objects_are_clear_and_specks_and_crowds_only_present(write_coco, instances):
    index = load(write_coco(instances))
    assert index.categories == ("person", "cat", "dog")
    assert index.files.tolist() == [f"val2017/{k}.jpg" for k in (1, 2, 3, 4)]
    assert index.clear.tolist() == [
        [False, True, False],
        [False, False, False],  # the dog covers 0.00099 of the image
        [False, True, False],  # the larger of two cats counts; the people are a crowd
        [False, False, False],
    ]
    assert index.present.tolist() == [
        [False, True, False],
        [False, False, True],
        [True, True, False],
        [False, False, False],
    ]


def test_min_area_may_change_without_parsing_again(write_coco, instances, own_cache):
    root = write_coco(instances)
    load(root)
    (saved,) = cached(own_cache / "coco")
    written = saved.stat().st_mtime_ns
    assert load(root, min_area=0.0009).clear[1].tolist() == [0, 0, 1]
    assert not load(root, min_area=0.02).clear[2].any()
    assert not load(root, min_area=0.0).clear[:, 0].any(), "crowds never are"
    assert [saved] == cached(own_cache / "coco")
    assert saved.stat().st_mtime_ns == written


@pytest.mark.parametrize("coco", ["small_coco", "coco_mini"])
def test_the_index_agrees_with_json_load(coco, request):
    root = request.getfixturevalue(coco)
    index = load(root, min_area=0.01, check_images=True)
    given = json.loads((root / "annotations/instances_val2017.json").read_text())
    row = {name: k for k, name in enumerate(index.files.tolist())}
    images = {image["id"]: image for image in given["images"]}
    names = {category["id"]: category["name"] for category in given["categories"]}
    clear, present = np.zeros_like(index.clear), np.zeros_like(index.present)
    for annotation in given["annotations"]:
        image = images[annotation["image_id"]]
        at = (
            row[f"val2017/{image['file_name']}"],
            index.categories.index(names[annotation["category_id"]]),
        )
        present[at] = True
        large = annotation["area"] >= 0.01 * image["width"] * image["height"]
        clear[at] |= large and not annotation["iscrowd"]
    assert (index.clear == clear).all()
    assert (index.present == present).all()
    assert 0 < clear.sum() < present.sum()


def test_the_order_of_the_file_does_not_matter_but_its_content_does(write_coco, instances):
    first = load(write_coco(instances))
    shuffled = {key: instances[key] for key in ("categories", "annotations", "images")}
    shuffled["images"] = instances["images"][::-1]
    assert load(write_coco(shuffled)).fingerprint == first.fingerprint
    instances["annotations"][1]["area"] = 400
    changed = load(write_coco(instances))
    assert changed.clear[1].tolist() == [0, 0, 1]
    assert changed.fingerprint != first.fingerprint


def test_missing_images_are_listed(write_coco, instances):
    root = write_coco(instances)
    for k in (1, 3):
        (root / "val2017" / f"{k}.jpg").touch()
    assert len(load(root)) == 4
    with pytest.raises(ValueError, match=r"2 of the 4 images .* such as val2017/2.jpg, val2017/4"):
        load(root, check_images=True)


@pytest.mark.parametrize(
    ("named", "there", "message"),
    [
        ("1.jpg", ["val2017/1.JPG"], "'val2017/1.JPG' is there"),
        ("val2017/1.jpg", ["val2017/1.jpg"], "'val2017/1.jpg' is there"),
        ("1.jpg", ["val2017/val2017/1.jpg"], "'val2017/val2017/1.jpg' is there"),
        ("1.jpg", ["1.jpg"], "'1.jpg' is there"),
        ("caf\u00e9.jpg", ["val2017/cafe\u0301.jpg"], "'val2017/cafe\u0301.jpg' is there"),
        ("1.jpg", ["val2017/one.jpg", "val2017/two.jpg"], "val2017 holds 2 files, such as one.jpg"),
        ("1.jpg", [], "val2017 is empty or missing"),
    ],
)
def test_what_is_there_instead_of_a_missing_image_is_said(
    write_coco, instances, named, there, message
):
    instances["images"][3]["file_name"] = named
    root = write_coco(instances)
    for name in there:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    with pytest.raises(UserError, match=message) as caught:
        check_present(root, [load(root).files[-1 if named > "4" else 0]], "some.json")
    assert "1 of the 1 images of some.json" in str(caught.value)
    assert "Unpack" not in str(caught.value)


def test_blanks_around_a_name_are_taken_off_and_said(write_coco, instances, logged):
    instances["categories"][0]["name"] = " traffic  light "
    assert load(write_coco(instances)).categories == ("person", "cat", "traffic light")
    assert "' traffic  light ' as 'traffic light'" in logged[0]


@pytest.mark.parametrize("kind", [int, str])
def test_categories_are_in_the_order_of_their_ids_be_they_texts(write_coco, instances, kind):
    for category, number in zip(instances["categories"], (100, 20, 3), strict=True):
        category["id"] = kind(number)
    new = {18: 100, 1: 20, 17: 3}
    for annotation in instances["annotations"]:
        annotation["category_id"] = kind(new[annotation["category_id"]])
    assert load(write_coco(instances)).categories == ("cat", "person", "dog")


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "swapped"])
def test_a_damaged_cache_is_made_again(write_coco, instances, own_cache, damage, logged):
    root = write_coco(instances)
    first = load(root)
    (saved,) = cached(own_cache / "coco")
    whole = saved.read_bytes()
    instances["annotations"][0]["category_id"] = 18
    load(write_coco(instances))  # another content, another index
    (other,) = set(cached(own_cache / "coco")) - {saved}
    if damage == "swapped":
        saved.write_bytes(other.read_bytes())
    else:
        flipped = whole[:-300] + bytes([whole[-300] ^ 1]) + whole[-299:]
        saved.write_bytes({"empty": b"", "cut": whole[:500], "flipped": flipped}[damage])
    instances["annotations"][0]["category_id"] = 17
    assert load(write_coco(instances)).fingerprint == first.fingerprint
    assert saved.read_bytes() == whole
    assert any("is made again" in message for message in logged)


def test_a_cache_that_cannot_be_written_is_a_warning(
    write_coco, instances, tmp_path, monkeypatch, logged
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LAID_CACHE", str(tmp_path / "file"))
    assert len(load(write_coco(instances))) == 4
    assert any("LAID_CACHE" in message for message in logged)


def edit(change):
    def apply(instances):
        change(instances)
        return instances

    return apply


def put(member, number, **values):
    """Give an element other values."""
    return edit(lambda instances: instances[member][number].update(values))


def drop(member, number, key):
    return edit(lambda instances: instances[member][number].pop(key))


def named(number, name):
    """One more category."""
    return edit(lambda x: x["categories"].append({"id": number, "name": name}))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda _: '{"images": [{"id": 1,,}', r"character 21"),
        (lambda _: '{"images": [], "annotations": [{"id"', r"character \d+.*cut off"),
        (lambda _: '["images"]', "an object at the top level"),
        (lambda x: json.dumps(x) + "x", "Extra data"),
        (edit(lambda x: x.pop("categories")), r"no 'categories'"),
        (edit(lambda x: x.update(images={})), "a list of one or more under 'images'"),
        (edit(lambda x: x.update(annotations=[])), "a list of one or more under 'annotations'"),
        (edit(lambda x: x["images"].append(3)), "element 4 of 'images' .*expected an object"),
        (named(17, "cow"), "17 is used by two"),
        (named(40, "cat"), "17 and 40 are named 'cat' and 'cat'"),
        (named(40, "Cat"), "'cat' and 'Cat', which differ"),
        (named(40, "cat "), "'cat' and 'cat ', which differ"),
        (named(40, "c_at"), "'cat' and 'c_at', which differ"),
        (put("categories", 0, name=" "), "'name' is \" \", expected a text"),
        (put("annotations", 0, category_id=2), "'category_id' is 2, which no category has"),
        (put("annotations", 0, image_id=77), "'image_id' is 77, which no image has"),
        (put("images", 3, id="1"), "'image_id' is 1, which no image has"),
        (drop("annotations", 0, "image_id"), "element 0 of 'annotations' has no 'image_id'"),
        (drop("annotations", 0, "area"), "'bbox' is null, expected .* 'area' is missing"),
        (put("annotations", 0, area="big"), "'area' is \"big\", expected square pixels"),
        (put("annotations", 0, area=-1), "'area' is -1, expected square pixels"),
        (put("annotations", 0, iscrowd="no"), "'iscrowd' is \"no\", expected 0 or 1"),
        (edit(lambda x: [a.update(iscrowd=1) for a in x["annotations"]]), "5 of 5 annotations are"),
        (put("images", 0, id=None), "'id' is null, expected a whole number"),
        (put("images", 0, id=1.5), "'id' is 1.5, expected a whole number"),
        (put("images", 0, id=3), "'id' 3 is used by two images"),
        (put("images", 0, file_name="1.jpg"), "'1.jpg' is used by two images"),
        (put("images", 0, file_name="../../etc/x"), "does not stay below"),
        (put("images", 0, width=0), "'width' is 0, expected a whole number of pixels, 1 to"),
        (put("images", 0, width=2**62), "'width' is 4611686018427387904, expected"),
        (put("images", 0, height=1e400), "'height' is Infinity, expected"),
    ],
)
def test_what_is_not_coco_is_refused_with_the_reason(write_coco, instances, broken, message):
    root = write_coco(broken(instances))
    with pytest.raises(ValueError, match=message) as caught:
        load(root)
    assert "instances_val2017.json" in str(caught.value)


def test_missing_folders_and_files_say_what_is_expected(write_coco, instances, tmp_path):
    with pytest.raises(ValueError, match="no COCO folder"):
        load(tmp_path / "nowhere")
    root = write_coco(instances)
    with pytest.raises(ValueError, match=r"found instances_val2017\.json"):
        CocoIndex.load(root, "train2017")
    (root / "val2017").rmdir()
    with pytest.raises(ValueError, match=r"4 of the 4 images .*val2017 is empty or missing"):
        load(root, check_images=True)


@pytest.mark.parametrize("min_area", [-0.1, 1.0, float("nan")])
def test_min_area_is_a_share(write_coco, instances, min_area):
    with pytest.raises(ValueError, match="min_area"):
        load(write_coco(instances), min_area=min_area)


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("LAID_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("LAID_CACHE")
    assert cache_root().parts[-2:] == (".cache", "laid")


def test_a_failed_build_leaves_nothing(tmp_path):
    def build():
        with atomic_dir(tmp_path / "out") as folder:
            (folder / "half").touch()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        build()
    assert list(tmp_path.iterdir()) == []


def test_of_two_racing_builders_one_wins_and_both_succeed(tmp_path):
    both_inside = threading.Barrier(2)

    def build():
        with atomic_dir(tmp_path / "out") as folder:
            both_inside.wait()
            (folder / "file").write_text("same")

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "same"


def test_text_is_replaced_whole_and_no_temporary_stays(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for text in ("first", "zweites Mal – größer"):
        atomic_write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(path.parent.iterdir()) == [path]
