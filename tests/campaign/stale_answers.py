"""What decides an answer has changed: no earlier answer is taken for it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from campaign.case import Case, assert_clean
from campaign.scenarios import checkpoints_of
from campaign.world import Place
from PIL import Image

KIND = "stale answers"
ANSWERED = "answered already"


def _keeping_times(path: Path, change: Callable[[Path], None]) -> None:
    """Changes a file and sets its times back: these do not tell that it has changed."""
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path}"
    path.write_text(text.replace(old, new))


def _middle(path: Path) -> None:
    """Another weight, in the middle of the file; its size stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 + 3] ^= 0x04
    path.write_bytes(content)


def _repaint(path: Path) -> None:
    """Another picture of as many bytes."""
    size = path.stat().st_size
    with Image.open(path) as image:
        kind, sides = image.format, image.size
    Image.new("RGB", sides, (200, 30, 30)).save(path, kind)
    content = path.read_bytes()
    assert len(content) <= size, "a flat picture is the smaller one"
    path.write_bytes(content + bytes(size - len(content)))


def _edit_json(path: Path, **keys: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def _template(path: Path) -> None:
    _replace_in(path, "assistant", "Assistant")


FILES: tuple[tuple[str, str, Callable[[Path], None]], ...] = (
    ("the chat template", "student/chat_template.jinja", _template),
    ("the image processor", "student/preprocessor_config.json",
     lambda path: _edit_json(path, image_mean=[0.1, 0.1, 0.1])),
    ("a weight in the middle of the file", "student/model.safetensors", _middle),
    ("the configuration", "student/config.json", lambda path: _edit_json(path, note="changed")),
    ("the tokenizer", "student/tokenizer.json",
     lambda path: path.write_text(path.read_text() + " ")),
    ("a picture of as many bytes", "coco/test2017", _repaint),
)  # fmt: skip
"""A file that decides an answer, and how it is changed."""


def _changed(name: str, change: Callable[[Path], None], keep: bool) -> Callable[[Place], None]:
    def check(place: Place) -> None:
        student = place.copy(place.world.student, "student")
        coco = place.copy(place.world.coco, "coco")
        config = place.config({"model.student.path": str(student), "data.coco_root": str(coco)})
        words = ["test", "--config", config, "--results", "out"]
        assert place.laid(*words).code == 0
        again = place.laid(*words)
        assert f"8 of 8 entries are {ANSWERED}" in again.said, "nothing has changed yet"
        target = place.folder / name
        for path in sorted(target.iterdir()) if target.is_dir() else [target]:
            if keep:
                _keeping_times(path, change)
            else:
                change(path)
        done = place.laid(*words)
        assert_clean(place, done)
        assert ANSWERED not in done.said, str(done)

    return check


SETTINGS: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("max_new_tokens", ("--model.max_new_tokens", 2)),
    ("the prefix", ("--data.prefix", "Look. ")),
    ("the pixels", ("--data.max_pixels", 1600)),
    ("the precision", ("--trainer.precision", "bf16-mixed")),
    ("attention", ("--model.student.attn_implementation", "eager")),
    ("the seed of the entries", ("--data.seed", 4)),
    ("sizes", ("--data.test.sizes", "[2]")),
    ("the split", ("--data.test.split", "val2017")),
    ("the window", ("--model.window_extension", "self-extend", "--model.self_extend.group", 2,
                    "--model.self_extend.window", 16)),
)  # fmt: skip


def _set(more: tuple[object, ...]) -> Callable[[Place], None]:
    def check(place: Place) -> None:
        words = ["test", "--config", place.config(), "--results", "out"]
        assert place.laid(*words).code == 0
        old = (place.folder / "out" / "records.jsonl").read_bytes()
        done = place.laid(*words, *more)
        assert done.code == 0, str(done)
        assert ANSWERED not in done.said, str(done)
        kept = (place.folder / "out").glob("records-*.jsonl")
        assert [path.read_bytes() for path in kept] == [old], "the old records are not kept"

    return check


def _another_checkpoint(place: Place) -> None:
    for path in checkpoints_of(place.world.run)[:2]:
        done = place.laid("test", "--ckpt_path", path, "--results", "out")
        assert done.code == 0, str(done)
        assert ANSWERED not in done.said, str(done)


def _moved(place: Place) -> None:
    """What does not decide an answer has changed: the records hold."""
    words = ["test", "--config", place.config(), "--results", "out"]
    assert place.laid(*words).code == 0
    done = place.laid(*words, "--data.eval_batch_size", 1, "--data.workers", 1, "--name", "other")
    assert done.code == 0, str(done)
    assert f"8 of 8 entries are {ANSWERED}" in done.said, str(done)


def _predicted_twice(place: Place) -> None:
    """Two folders with files of the same names, in one Python process, with kept features."""
    answers = []
    for colours in (("red", "blue"), ("white", "black")):
        folder = place.folder / "photographs"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for number, colour in enumerate(colours):
            Image.new("RGB", (56, 56), colour).save(folder / f"{number}.png")
        done = place.laid(
            "predict", "--config", place.config(), "--data.predict.images", folder,
            "--data.predict.question", "Is there a dog?", "--data.cache_features", "true",
            "--results", colours[0],
        )  # fmt: skip
        assert done.code == 0, str(done)
        answers.append((place.folder / colours[0] / "predictions.jsonl").read_text())
    assert len(answers) == 2


CASES: list[Case] = [
    *(
        Case(
            KIND,
            f"{what} changed{', its times set back' if keep else ''}",
            _changed(name, change, keep),
        )
        for what, name, change in FILES
        for keep in (False, True)
    ),
    *(
        Case(KIND, f"{what} changed", _set(more), sample=what == "max_new_tokens")
        for what, more in SETTINGS
    ),
    Case(KIND, "another checkpoint", _another_checkpoint),
    Case(KIND, "what does not decide an answer", _moved),
    Case(KIND, "two folders with the same names", _predicted_twice),
]
