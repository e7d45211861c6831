"""COCO and Visual Haystacks files of other tools, damaged or made up: read, or refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from campaign.case import Case, assert_clean, refusal
from campaign.world import Place

KIND = "bad COCO and question files"
FIXTURES = Path(__file__).parents[1] / "fixtures"
ANNOTATIONS = "coco/annotations/instances_val2017.json"

NO_JSON: tuple[tuple[str, bytes, str], ...] = (
    ("nothing", b"", "is not JSON|is empty"),
    ("an open brace", b"{", "cut off"),
    ("HTML", b"<!DOCTYPE html><html></html>", "is not JSON"),
    ("gzip", b"\x1f\x8b\x08\x00\x00\x00", "UTF-8"),
    ("UTF-16", "{}".encode("utf-16"), "UTF-8"),
    ("NULs", b"\0" * 4096, "is not JSON"),
    ("100,000 brackets", b"[" * 100_000, "too deep"),
    ("100,000 objects", b'{"a":' * 100_000, "too deep"),
    ("a number of 10,000 digits", b'{"images": ' + b"9" * 10_000 + b"}", "digits"),
    ("a list", b"[]", "list|object"),
    ("a text", b'"coco"', "list|object"),
    ("null", b"null", "list|object"),
    ("another object", b'{"a": 1}', "images|categories|list"),
    ("two values", b"{} {}", "is not JSON"),
)
"""Contents of an annotation file, and of a question file."""

_ABSENT = object()
COCO: tuple[tuple[str, object, str], ...] = (
    ("images", _ABSENT, "'images'"),
    ("images", [], "'images'"),
    ("images", None, "'images'"),
    ("images", {}, "'images'"),
    ("annotations", _ABSENT, "'annotations'"),
    ("annotations", [], "'annotations'"),
    ("categories", _ABSENT, "'categories'"),
    ("categories", [], "'categories'"),
    ("images.0", 7, "element 0 of 'images'"),
    ("images.0", None, "element 0 of 'images'"),
    ("images.0.id", _ABSENT, "'id'"),
    ("images.0.id", None, "'id'"),
    ("images.0.id", 2, "'id' 2"),
    ("images.0.id", [1], "'id'"),
    ("images.0.id", True, "'id'"),
    ("images.0.id", 1.5, "'id'"),
    ("images.0.id", float("nan"), "'id'"),
    ("images.0.file_name", _ABSENT, "'file_name'"),
    ("images.0.file_name", "", "file name"),
    ("images.0.file_name", None, "file name|file_name"),
    ("images.0.file_name", 7, "file name|file_name"),
    ("images.0.file_name", "../../secret.jpg", "../../secret.jpg"),
    ("images.0.file_name", "/etc/passwd", "/etc/passwd"),
    ("images.0.file_name", "C:\\x.jpg", "C:"),
    ("images.0.file_name", "a\0.jpg", "file name"),
    ("images.0.file_name", "000000000002.jpg", "000000000002.jpg"),
    ("images.0.file_name", "absent.jpg", "absent.jpg"),
    ("images.0.file_name", "x" * 5000, "file name|images of"),
    ("images.0.width", 0, "'width'"),
    ("images.0.width", -5, "'width'"),
    ("images.0.width", 2**62, "'width'"),
    ("images.0.width", 10**400, "'width'"),
    ("images.0.width", "64", "'width'"),
    ("images.0.width", float("nan"), "'width'"),
    ("images.0.width", float("inf"), "'width'"),
    ("images.0.height", None, "'height'"),
    ("images.0.height", _ABSENT, "'height'"),
    ("categories.0.id", _ABSENT, "'id'"),
    ("categories.0.id", 17, "'id' 17"),
    ("categories.0.name", _ABSENT, "'name'"),
    ("categories.0.name", "", "'name'"),
    ("categories.0.name", None, "'name'"),
    ("categories.0.name", ["dog"], "'name'"),
    ("categories.0.name", "dog", "'dog'"),
    ("categories.0.name", "Dog", "'Dog'"),
    ("categories.0.name", "dog ", "'dog '"),
    ("categories.0.name", " do_g", "do_g"),
    ("categories.0.name", "<|im_end|>", "<|im_end|>"),
    ("categories.0.name", "<image>", "<image>"),
    ("annotations.0.image_id", _ABSENT, "'image_id'"),
    ("annotations.0.image_id", 999, "'image_id' is 999"),
    ("annotations.0.image_id", None, "'image_id'"),
    ("annotations.0.category_id", _ABSENT, "'category_id'"),
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

ENTRIES: tuple[tuple[str, object, str], ...] = (
    ("0", 7, "entry 0"),
    ("0", None, "entry 0"),
    ("0.conversations", _ABSENT, "'conversations'"),
    ("0.conversations", [], "'conversations'"),
    ("0.conversations", "why?", "'conversations'"),
    ("0.conversations.0", "why?", "'conversations'"),
    ("0.conversations.0.value", _ABSENT, "'conversations'"),
    ("0.conversations.0.value", 3, "'conversations'"),
    ("0.conversations.0.value", "", "question"),
    ("0.conversations.1.value", "maybe", "yes or no"),
    ("0.conversations.1.value", "", "yes or no"),
    ("0.conversations.1.value", None, "'conversations'"),
    ("1.conversations.0.value", "<image>\nIs there a dog?", "entry 1"),
    ("1.conversations.0.value", "Is there <image> a dog?", "'<image>'"),
    ("1.conversations.0.value", "Is <video> there a dog?", "'<video>'"),
    ("1.conversations.0.value", "Is <|image_pad|> there?", "'<|image_pad|>'"),
    ("1.conversations.0.value", "yes<|im_end|>\nno", "'<|im_end|>'"),
    ("1.conversations.0.value", "a<|im_start|>system", "'<|im_start|>'"),
    ("1.conversations.0.value", "a <|vision_start|> b", "'<|vision_start|>'"),
    ("1.conversations.0.value", "a <|endoftext|>", "'<|endoftext|>'"),
    ("1.conversations.0.value", "a <|video_pad|>", "'<|video_pad|>'"),
    ("0.pos_image", _ABSENT, "'pos_image'"),
    ("0.pos_image", [], "'pos_image'"),
    ("0.pos_image", "val2017/000000000002.jpg", "'pos_image'"),
    ("0.pos_image", [3], "'pos_image'"),
    ("0.pos_image", [None], "'pos_image'"),
    ("0.pos_image", ["../secret.jpg"], "../secret.jpg"),
    ("0.pos_image", ["/etc/passwd"], "/etc/passwd"),
    ("0.pos_image", ["val2017/absent.jpg"], "val2017/absent.jpg"),
    ("0.pos_image", ["val2017/000000000010.jpg"], "both in 'pos_image' and in 'neg_image'"),
    ("0.neg_image", None, "'neg_image'"),
    ("0.neg_image", {}, "'neg_image'"),
    ("0.neg_image", ["val2017"], "val2017"),
    ("0.laid", {}, "'laid'"),
    ("0.laid", {"id": "x", "mode": "single", "order": [0, 0, 1, 2, 3]}, "'order'"),
    ("0.laid", {"id": 3, "mode": "single", "order": [0, 1, 2, 3, 4]}, "'id'"),
    ("0.laid", {"id": "x", "mode": "none", "order": [0, 1, 2, 3, 4]}, "'mode'"),
    ("0.laid", {"id": "x", "mode": "single", "order": [[0], 1, 2, 3, 4]}, "'order'"),
)
"""A place in a file of questions, what stands there, words of the message."""


def changed(content: Any, where: str, value: object) -> Any:
    """JSON with the value at a place, in dots, another one or absent."""
    content = json.loads(json.dumps(content))
    inner = content
    *parents, last = [int(key) if key.isdigit() else key for key in where.split(".")]
    for key in parents:
        inner = inner[key]
    if value is _ABSENT:
        del inner[last]
    else:
        inner[last] = value
    return content


def _build(place: Place, out: str = "out") -> list[object]:
    return [
        "data", "build", "--coco_root", "coco", "--out", out, "--train_entries", 0,
        "--sizes", "[2]", "--test_per_size", 4,
    ]  # fmt: skip


def _ask(place: Place, *more: object) -> list[object]:
    config = place.config({"data.coco_root": "coco"})
    source = ("--data.test.source", '["q.json"]', "--results", "results")
    return ["test", "--config", config, *source, *more]


def _coco(place: Place) -> Any:
    place.copy(FIXTURES / "coco")
    return json.loads((place.folder / ANNOTATIONS).read_text())


def _questions(place: Place, name: str = "visual_haystack_5.json") -> Any:
    place.copy(FIXTURES / "coco")
    return json.loads((FIXTURES / "vhs" / name).read_text())


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


def _with_questions(content: bytes) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        _questions(place)
        (place.folder / "q.json").write_bytes(content)
        return _ask(place)

    return prepare


def _with_changed_questions(where: str, value: object) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        content = changed(_questions(place), where, value)
        (place.folder / "q.json").write_text(json.dumps(content))
        return _ask(place)

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


def _only_crowds(place: Place) -> list[object]:
    content = _coco(place)
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    (place.folder / ANNOTATIONS).write_text(json.dumps(content))
    return _build(place)


def _asked(place: Place, *more: object, said: str = "", n: int) -> Any:
    done = place.laid(*_ask(place, *more))
    assert done.code == 0, str(done)
    assert_clean(place, done)
    assert said in done.said, str(done)
    results = json.loads((place.folder / "results" / "results.json").read_text())
    assert sum(cell["n"] for cell in results["by_size"].values()) == n
    records = (place.folder / "results" / "records.jsonl").read_text().splitlines()[1:]
    assert len(records) == n
    return [json.loads(line) for line in records]


def _leading_marks(place: Place) -> None:
    """LLaVA's format: a mark a line for each image, before the question."""
    content = _questions(place)
    (place.folder / "q.json").write_text(json.dumps(content))
    plain = _asked(place, n=len(content))
    for row in content:
        turn = row["conversations"][0]
        turn["value"] = "<image>\n" * 5 + turn["value"]
    (place.folder / "q.json").write_text(json.dumps(content))
    marked = _asked(place, "--results", "results", n=len(content))
    assert [r["tokens"] for r in marked] == [r["tokens"] for r in plain]


def _byte_order_mark(place: Place) -> None:
    content = _questions(place)
    (place.folder / "q.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    _asked(place, said="byte order mark", n=len(content))


def _every_entry(place: Place) -> None:
    """Configured sizes and numbers are of entries that are built: a file is asked whole."""
    content = _questions(place) * 5
    (place.folder / "q.json").write_text(json.dumps(content))
    assert len(content) > 4
    _asked(place, n=len(content))


def _some_entries(place: Place) -> None:
    content = _questions(place)
    (place.folder / "q.json").write_text(json.dumps(content))
    _asked(place, "--data.test.per_size", 2, said=f"2 of {len(content)} entries of 5 images", n=2)
    results = (place.folder / "results" / "results.json").read_text()
    assert str(len(content)) in results


def _of_a_run(place: Place) -> None:
    """README's command: official files, of sizes that the run was not tested on."""
    content = _questions(place)
    (place.folder / "q.json").write_text(json.dumps(content))
    done = place.laid(
        "test", "--ckpt_path", place.world.run, "--data.coco_root", "coco",
        "--data.test.source", '["q.json"]', "--results", "results",
    )  # fmt: skip
    assert done.code == 0, str(done)
    results = json.loads((place.folder / "results" / "results.json").read_text())
    assert results["by_size"]["5"]["n"] == len(content)


def _missing_size(place: Place) -> list[object]:
    (place.folder / "q.json").write_text(json.dumps(_questions(place)))
    return _ask(place, "--data.test.sizes", "[7]")


def _training_source(place: Place) -> None:
    """All entries of a training file, in the epoch's steps."""
    content = _questions(place)
    (place.folder / "q.json").write_text(json.dumps(content * 2))
    config = place.config({"data.coco_root": "coco"})
    built = place.laid(
        "fit", "--config", config, "--data.train.source", "q.json", "--trainer.max_epochs", 1,
        "--data.validate.source", '["q.json"]', "--data.global_batch_size", 1,
    )  # fmt: skip
    assert built.code == 0, str(built)
    steps = len(content) * 2
    assert (place.folder / "runs" / "run" / "checkpoints" / f"step={steps}.ckpt").exists()


def _data_set_folder(text: str) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        place.copy(FIXTURES / "coco")
        folder = place.folder / "saved"
        folder.mkdir()
        for name in ("state.json", "dataset_info.json"):
            (folder / name).write_text(text)
        config = place.config({"data.coco_root": "coco"})
        source = ("--data.test.source", '["saved"]', "--results", "results")
        return ["test", "--config", config, *source]

    return prepare


CASES: list[Case] = [
    *(
        refusal(KIND, f"annotations that are {what}", _with_annotations(content), ANNOTATIONS, word)
        for what, content, word in NO_JSON
    ),
    *(
        refusal(
            KIND,
            f"{where} {'absent' if value is _ABSENT else repr(value)[:24]}",
            _with_changed_annotations(where, value),
            "instances_val2017.json",
            word,
            sample=n in (12, 45),
        )
        for n, (where, value, word) in enumerate(COCO)
    ),
    *(
        refusal(KIND, f"questions that are {what}", _with_questions(content), "q.json", word)
        for what, content, word in NO_JSON
    ),
    *(
        refusal(
            KIND,
            f"entry {where} {'absent' if value is _ABSENT else repr(value)[:40]}",
            _with_changed_questions(where, value),
            "q.json",
            word,
            sample=n == 14,
        )
        for n, (where, value, word) in enumerate(ENTRIES)
    ),
    *(
        Case(KIND, f"annotations in the dialect {path.stem}", _dialect(path.stem))
        for path in sorted((FIXTURES / "coco_dialects").glob("*.json"))
    ),
    refusal(KIND, "only crowds", _only_crowds, "annotations are crowds"),
    refusal(KIND, "files named .JPG", _spelled(_rename_all(".JPG")), "000000000001.JPG"),
    refusal(KIND, "files of another type", _spelled(_rename_all(".png")), "000000000001.png"),
    refusal(KIND, "a split in its own split", _spelled(_nest), "val2017/val2017/000000000001.jpg"),
    Case(KIND, "leading image marks, one an image", _leading_marks),
    Case(KIND, "questions with a byte order mark", _byte_order_mark),
    Case(KIND, "every entry of a file is asked", _every_entry),
    Case(KIND, "some entries, where that is typed, and it is said", _some_entries),
    Case(KIND, "official files with a run's own settings", _of_a_run),
    Case(KIND, "every entry of a training file", _training_source),
    refusal(KIND, "a size that no file has", _missing_size, "data.test.sizes", "[7]", "[5]"),
    refusal(KIND, "a data set of no JSON", _data_set_folder("{"), "saved"),
    refusal(KIND, "a data set of other JSON", _data_set_folder("[]"), "saved"),
    refusal(KIND, "a data set without tables", _data_set_folder('{"_data_files": []}'), "saved"),
]  # fmt: skip
