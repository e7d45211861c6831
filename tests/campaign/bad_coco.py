"""COCO files of other tools, damaged or made up: read, or refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from campaign.broken_json import ABSENT, FIXTURES, NO_JSON, changed
from campaign.case import Case, assert_clean, refusal
from campaign.world import Place

KIND = "bad COCO files"
ANNOTATIONS = "coco/annotations/instances_val2017.json"

COCO: tuple[tuple[str, object, str], ...] = (
    ("images", ABSENT, "'images'"),
    ("images", [], "'images'"),
    ("images", None, "'images'"),
    ("images", {}, "'images'"),
    ("annotations", ABSENT, "'annotations'"),
    ("annotations", [], "'annotations'"),
    ("categories", ABSENT, "'categories'"),
    ("categories", [], "'categories'"),
    ("images.0", 7, "element 0 of 'images'"),
    ("images.0", None, "element 0 of 'images'"),
    ("images.0.id", ABSENT, "'id'"),
    ("images.0.id", None, "'id'"),
    ("images.0.id", 2, "'id' 2"),
    ("images.0.id", [1], "'id'"),
    ("images.0.id", True, "'id'"),
    ("images.0.id", 1.5, "'id'"),
    ("images.0.id", float("nan"), "'id'"),
    ("images.0.file_name", ABSENT, "'file_name'"),
    ("images.0.file_name", "", "file name"),
    ("images.0.file_name", None, "file name|file_name"),
    ("images.0.file_name", 7, "file name|file_name"),
    ("images.0.file_name", "../../secret.jpg", "../../secret.jpg"),
    ("images.0.file_name", "/etc/passwd", "/etc/passwd"),
    ("images.0.file_name", "C:\\x.jpg", "C:"),
    ("images.0.file_name", "a\0.jpg", "file name"),
    ("images.0.file_name", "000000000002.jpg", "000000000002.jpg"),
    ("images.0.file_name", "absent.jpg", "absent.jpg"),
    ("images.0.file_name", "x" * 300, "file name|images of"),
    ("images.0.width", 0, "'width'"),
    ("images.0.width", -5, "'width'"),
    ("images.0.width", 2**62, "'width'"),
    ("images.0.width", 10**400, "'width'"),
    ("images.0.width", "64", "'width'"),
    ("images.0.width", float("nan"), "'width'"),
    ("images.0.width", float("inf"), "'width'"),
    ("images.0.height", None, "'height'"),
    ("images.0.height", ABSENT, "'height'"),
    ("categories.0.id", ABSENT, "'id'"),
    ("categories.0.id", 17, "'id' 17"),
    ("categories.0.name", ABSENT, "'name'"),
    ("categories.0.name", "", "'name'"),
    ("categories.0.name", None, "'name'"),
    ("categories.0.name", ["dog"], "'name'"),
    ("categories.0.name", "dog", "'dog'"),
    ("categories.0.name", "Dog", "'Dog'"),
    ("categories.0.name", "dog ", "'dog '"),
    ("categories.0.name", " do_g", "do_g"),
    ("annotations.0.image_id", ABSENT, "'image_id'"),
    ("annotations.0.image_id", 999, "'image_id' is 999"),
    ("annotations.0.image_id", None, "'image_id'"),
    ("annotations.0.category_id", ABSENT, "'category_id'"),
    ("annotations.0.category_id", 999, "'category_id' is 999"),
    ("annotations.0.iscrowd", 2, "'iscrowd'"),
    ("annotations.0.iscrowd", "no", "'iscrowd'"),
    ("annotations.0.area", -1, "'area'"),
    ("annotations.0.area", "big", "'area'"),
    ("annotations.0.area", float("nan"), "'area'"),
    ("annotations.0.area", float("inf"), "'area'"),
    ("annotations.0.area", 10**400, "'area'"),
)
"""A place in the annotations, what stands there, words of the message."""


def _build(place: Place, out: str = "out") -> list[object]:
    return [
        "data", "build", "--coco_root", "coco", "--out", out, "--train_entries", 0,
        "--sizes", "[2]", "--test_per_size", 4,
    ]  # fmt: skip


def _coco(place: Place) -> Any:
    place.copy(FIXTURES / "coco")
    return json.loads((place.folder / ANNOTATIONS).read_text())


def _with_annotations(content: bytes) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        _coco(place)
        (place.folder / ANNOTATIONS).write_bytes(content)
        return _build(place)

    return prepare


def _with_changed_annotations(where: str, value: object) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        content = changed(_coco(place), where, value)
        (place.folder / ANNOTATIONS).write_text(json.dumps(content))
        return _build(place)

    return prepare


def _dialect(name: str) -> Callable[[Place], None]:
    def check(place: Place) -> None:
        plain = _coco(place)
        assert plain
        done = place.laid(*_build(place, "plain"))
        assert done.code == 0, str(done)
        dialect = FIXTURES / "coco_dialects" / f"{name}.json"
        (place.folder / ANNOTATIONS).write_bytes(dialect.read_bytes())
        done = place.laid(*_build(place, "other"))
        assert done.code == 0, str(done)
        assert_clean(place, done)
        if name not in ("minimal", "no_iscrowd"):
            assert "instances_val2017.json" in done.said, "it says nothing of what it reads"
        one, two = ((place.folder / at / "test_2.json").read_bytes() for at in ("plain", "other"))
        assert one == two

    return check


def _spelled(change: Callable[[Path], None], *expected: str) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        _coco(place)
        change(place.folder / "coco")
        return _build(place)

    return prepare


def _rename_all(suffix: str) -> Callable[[Path], None]:
    def change(coco: Path) -> None:
        for path in list((coco / "val2017").iterdir()):
            path.rename(path.with_suffix(suffix))

    return change


def _nest(coco: Path) -> None:
    (coco / "val2017").rename(coco / "old")
    (coco / "val2017").mkdir()
    (coco / "old").rename(coco / "val2017" / "val2017")


def _control_token(token: str) -> Callable[[Place], list[object]]:
    """A category that a tokenizer would not read as text."""

    def prepare(place: Place) -> list[object]:
        content = changed(_coco(place), "categories.0.name", token)
        (place.folder / ANNOTATIONS).write_text(json.dumps(content))
        config = place.config({"data.coco_root": "coco", "data.test.split": "val2017"})
        return ["test", "--config", config, "--data.test.sizes", "[2]", "--results", "out"]

    return prepare


def _only_crowds(place: Place) -> list[object]:
    content = _coco(place)
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    (place.folder / ANNOTATIONS).write_text(json.dumps(content))
    return _build(place)


CASES: list[Case] = [
    *(
        refusal(KIND, f"annotations that are {what}", _with_annotations(content), ANNOTATIONS, word)
        for what, content, word in NO_JSON
    ),
    *(
        refusal(
            KIND,
            f"{where} {'absent' if value is ABSENT else repr(value)[:24]}",
            _with_changed_annotations(where, value),
            "instances_val2017.json",
            word,
            sample=n == 45,
        )
        for n, (where, value, word) in enumerate(COCO)
    ),
    *(
        Case(KIND, f"annotations in the dialect {path.stem}", _dialect(path.stem))
        for path in sorted((FIXTURES / "coco_dialects").glob("*.json"))
    ),
    *(
        refusal(KIND, f"a category {token}", _control_token(token), token)
        for token in ("<|im_end|>", "<image>", "<|image_pad|>")
    ),
    refusal(KIND, "only crowds", _only_crowds, "annotations are crowds"),
    refusal(KIND, "files named .JPG", _spelled(_rename_all(".JPG")), "000000000001.JPG"),
    refusal(KIND, "files of another type", _spelled(_rename_all(".png")), "000000000001.png"),
    refusal(KIND, "a split in its own split", _spelled(_nest), "val2017/val2017/000000000001.jpg"),
]
