"""Visual Haystacks files: ours read back identical, official ones understood, others refused."""

import json

import pytest
from datasets import Dataset, DatasetDict, Value

from laid.data.coco_index import CocoIndex
from laid.data.entries import FEATURES, HaystackEntry
from laid.data.haystack_builder import build_entries
from laid.data.vhs_files import load_entries, read_vhs, write_vhs


@pytest.fixture(scope="module")
def entries(index):
    return build_entries(index, "test", [3, 8], 12, needles=(1, 2, 3))


@pytest.fixture
def official(small_coco):
    """Rows as the official files have them, on images that are there."""
    names = CocoIndex.load(small_coco, "val2017").files.tolist()

    def row(question, answer, positive, negative):
        return {
            "conversations": [
                {"from": "human", "value": question},
                {"from": "gpt", "value": answer},
            ],
            "pos_image": positive,
            "neg_image": negative,
        }

    return [
        row("For the image with a cat, is there an oven?", "Yes", names[:1], names[1:10]),
        row("For all images with a dog, do any of them contain a hot dog?", "No.", names[:2], []),
        row("Is there a cat?", "no", [f"./{names[0]}"], names[9:12]),
    ]


@pytest.fixture
def write_rows(tmp_path):
    def write(rows):
        path = tmp_path / "visual_haystack.json"
        path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
        return path

    return write


def test_our_files_read_back_identical(entries, drawn, tmp_path):
    write_vhs(entries, tmp_path / "test.json")
    again = read_vhs(tmp_path / "test.json", drawn, role="other", seed=9)
    assert again[:] == entries[:]
    assert again.features == entries.features == FEATURES


def test_our_files_are_visual_haystacks(entries, tmp_path):
    write_vhs(entries, tmp_path / "test.json")
    for row, entry in zip(json.loads((tmp_path / "test.json").read_text()), entries, strict=True):
        question, answer = (turn["value"] for turn in row["conversations"])
        assert (question, answer) == (entry["question"], entry["answer"])
        assert row["pos_image"] == [entry["images"][k] for k in entry["needles"]]
        assert sorted(row["pos_image"] + row["neg_image"]) == sorted(entry["images"])


def test_official_files_are_understood(official, write_rows, small_coco):
    read = read_vhs(write_rows(official), small_coco, role="validate")
    assert read["id"][:] == ["validate-10-000000", "validate-2-000001", "validate-4-000002"]
    assert read["answer"][:] == ["yes", "no", "no"]
    assert read["mode"][:] == ["single", "any", "single"]
    assert read["anchor"][:] == ["cat", "dog", ""]
    assert read["target"][:] == ["oven", "hot dog", ""]
    for row, entry in zip(official, read, strict=True):
        shown = [entry["images"][k] for k in entry["needles"]]
        assert sorted(shown) == sorted(name.removeprefix("./") for name in row["pos_image"])
        assert len(entry["images"]) == entry["size"]


def test_official_images_are_shuffled_by_seed_and_entry_alone(official, write_rows, small_coco):
    path = write_rows([official[0]] * 6)
    first = read_vhs(path, small_coco)
    assert read_vhs(path, small_coco, role="validate")["images"][:] == first["images"][:]
    assert len({tuple(images) for images in first["images"]}) == 6
    assert read_vhs(path, small_coco, seed=1)["images"][:] != first["images"][:]
    shorter = read_vhs(write_rows([official[0]] * 2), small_coco)
    assert shorter["images"][:] == first["images"][:2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("conversations"), "'conversations'"),
        (lambda r: r.update(conversations=[{"value": "?"}]), "'conversations'"),
        (lambda r: r["conversations"][1].update(value="maybe"), "yes or no, not 'maybe'"),
        (lambda r: r.pop("neg_image"), "'neg_image'"),
        (lambda r: r.update(pos_image="a.jpg"), "'pos_image'"),
        (lambda r: r.update(pos_image=[]), "'pos_image' is empty"),
        (lambda r: r["neg_image"].append("../../etc/passwd"), "'neg_image'.*does not stay below"),
        (lambda r: r["neg_image"].append("/etc/passwd"), "'neg_image'.*does not stay below"),
        (lambda r: r["neg_image"].append(3), "'neg_image'.*does not stay below"),
        (lambda r: r.update(laid={"id": "x", "mode": "single", "order": [0, 0]}), "'laid'"),
        (lambda r: r.update(laid=[]), "'laid'"),
    ],
)
def test_a_malformed_entry_is_named(official, write_rows, small_coco, change, message):
    change(official[1])
    with pytest.raises(ValueError, match=rf"visual_haystack\.json, entry 1: .*{message}"):
        read_vhs(write_rows(official), small_coco)


@pytest.mark.parametrize("text", ["{", "{}", "[]", "[3]"])
def test_a_file_that_is_something_else_is_named(write_rows, tmp_path, text):
    with pytest.raises(ValueError, match=r"visual_haystack\.json"):
        read_vhs(write_rows(text), tmp_path)


def test_missing_files_and_images_are_reported(official, write_rows, small_coco, tmp_path):
    with pytest.raises(ValueError, match="cannot read"):
        read_vhs(tmp_path / "none.json", small_coco)
    official[0]["neg_image"] += ["val2017/one.jpg", "val2017/two.jpg"]
    with pytest.raises(
        ValueError, match=r"2 of the \d+ images of .*visual_.*val2017/one\.jpg.*holds 12"
    ):
        read_vhs(write_rows(official), small_coco)


def test_entries_are_loaded_from_a_file_or_a_folder(entries, drawn, tmp_path):
    write_vhs(entries, tmp_path / "test.json")
    entries.save_to_disk(tmp_path / "saved")
    DatasetDict({"test": entries}).save_to_disk(tmp_path / "dict")
    for source in ("test.json", "saved", "dict"):
        assert load_entries(str(tmp_path / source), drawn)[:] == entries[:]
    with pytest.raises(ValueError, match="none of them 'train'"):
        load_entries(str(tmp_path / "dict"), drawn, role="train")


def test_columns_may_be_stored_wider_and_with_others_beside(entries, drawn, tmp_path):
    other = entries.cast_column("size", Value("int64")).add_column("note", ["x"] * len(entries))
    other.save_to_disk(tmp_path / "other")
    files = sorted(p.name for p in (tmp_path / "other").iterdir())
    read = load_entries(str(tmp_path / "other"), drawn)
    assert read.features == FEATURES
    assert read[:] == entries[:]
    assert sorted(p.name for p in (tmp_path / "other").iterdir()) == files


def test_what_is_to_be_answered_may_have_null_in_place_of_answers_and_needles(
    entries, drawn, tmp_path
):
    unknown = dict.fromkeys(("answer", "anchor", "target", "mode", "needles"))
    asked = Dataset.from_list([row | unknown for row in entries], FEATURES)
    asked.save_to_disk(tmp_path / "asked")
    read = load_entries(str(tmp_path / "asked"), drawn, role="predict")
    found = [HaystackEntry.of(row) for row in read]
    assert [entry.question for entry in found] == entries["question"][:]
    assert {(entry.answer, entry.mode, entry.needles) for entry in found} == {("", "", ())}


def test_a_folder_with_other_columns_or_names_is_refused(entries, drawn, tmp_path):
    entries.remove_columns(["needles"]).save_to_disk(tmp_path / "less")
    with pytest.raises(ValueError, match="needles"):
        load_entries(str(tmp_path / "less"), drawn)
    entries.map(lambda e: {"images": ["../x.png", *e["images"][1:]]}).save_to_disk(tmp_path / "bad")
    with pytest.raises(ValueError, match="does not stay below"):
        load_entries(str(tmp_path / "bad"), drawn)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="cannot load entries from"):
        load_entries(str(tmp_path / "empty"), drawn)
