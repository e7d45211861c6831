"""Visual Haystacks files, official or not: all of it is asked, or it is refused by entry."""

import json
from collections.abc import Callable
from typing import Any

from campaign.broken_json import ABSENT, FIXTURES, NO_JSON, changed
from campaign.case import Case, assert_clean, refusal
from campaign.world import Place

KIND = "bad question files"

ENTRIES: tuple[tuple[str, object, str], ...] = (
    ("0", 7, "entry 0"),
    ("0", None, "entry 0"),
    ("0.conversations", ABSENT, "'conversations'"),
    ("0.conversations", [], "'conversations'"),
    ("0.conversations", "why?", "'conversations'"),
    ("0.conversations.0", "why?", "'conversations'"),
    ("0.conversations.0.value", ABSENT, "'conversations'"),
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
    ("0.pos_image", ABSENT, "'pos_image'"),
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
    ("0.laid", {}, "'laid'"),
    ("0.laid", {"id": "x", "mode": "single", "order": [0, 0, 1, 2, 3]}, "'order'"),
    ("0.laid", {"id": 3, "mode": "single", "order": [0, 1, 2, 3, 4]}, "'id'"),
    ("0.laid", {"id": "x", "mode": "none", "order": [0, 1, 2, 3, 4]}, "'mode'"),
    ("0.laid", {"id": "x", "mode": "single", "order": [[0], 1, 2, 3, 4]}, "'order'"),
)
"""A place in a file of questions, what stands there, words of the message."""


def _ask(place: Place, *more: object) -> list[object]:
    config = place.config({"data.coco_root": "coco"})
    source = ("--data.test.source", '["q.json"]', "--results", "results")
    return ["test", "--config", config, *source, *more]


def _questions(place: Place, name: str = "visual_haystack_5.json") -> Any:
    place.copy(FIXTURES / "coco")
    return json.loads((FIXTURES / "vhs" / name).read_text())


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
        refusal(KIND, f"questions that are {what}", _with_questions(content), "q.json", word)
        for what, content, word in NO_JSON
    ),
    *(
        refusal(
            KIND,
            f"entry {where} {'absent' if value is ABSENT else repr(value)[:40]}",
            _with_changed_questions(where, value),
            "q.json",
            word,
            sample=n == 14,
        )
        for n, (where, value, word) in enumerate(ENTRIES)
    ),
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
]
