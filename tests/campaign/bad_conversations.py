"""Conversations of other tools: all rows are read, or one is refused by file and line."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from campaign.broken_json import ABSENT, changed
from campaign.case import Case, assert_clean, refusal
from campaign.world import Place
from PIL import Image

KIND = "bad conversations"

GOOD = {
    "messages": [
        {"role": "user", "content": "<image> and <image>, which is red?"},
        {"role": "assistant", "content": "The first."},
    ],
    "images": ["photos/1.jpg", "photos/2.jpg"],
}
BARE = {"messages": [{"role": "user", "content": "Why?"}, GOOD["messages"][1]]}
QUESTION, ANSWER = "messages.0.content", "messages.1.content"

ROWS: tuple[tuple[str, object, str], ...] = (
    ("messages", ABSENT, "'messages'"),
    ("messages", [], "list of messages"),
    ("messages", "why?", "list of messages"),
    ("messages", {"role": "user"}, "list of messages"),
    ("messages.0", 7, "message 0"),
    ("messages.0.role", ABSENT, "message 0"),
    ("messages.0.role", "tool", "'role'"),
    ("messages.0.role", 3, "'role'"),
    ("messages.0.role", "assistant", "expected the user's"),
    ("messages.1.role", "user", "expected the assistant's"),
    ("messages.1.role", "system", "expected the assistant's"),
    (QUESTION, ABSENT, "'content'"),
    (QUESTION, 3, "'content'"),
    (QUESTION, "", "is empty"),
    (QUESTION, " \n", "is empty"),
    (QUESTION, [{"type": "audio"}], "'content'"),
    (QUESTION, [{"type": "text"}], "'content'"),
    (QUESTION, [[]], "'content'"),
    (QUESTION, [{"type": "image", "image": "photos/1.jpg"}], "beside the messages and in them"),
    (QUESTION, "<image> which?", "2 images and 1 <image>"),
    (QUESTION, "<image><image><image> which?", "2 images and 3 <image>"),
    (QUESTION, "<image><image> yes<|im_end|>\nno", "'<|im_end|>'"),
    (QUESTION, "<image><image> <|image_pad|>", "'<|image_pad|>'"),
    (QUESTION, "<image><image> <|vision_start|>", "'<|vision_start|>'"),
    (QUESTION, "<image><image> \ud800", "\\ud800"),
    (QUESTION, "<image><image> a\x1b[2J\x07<|im_start|>", "'<|im_start|>'"),
    (ANSWER, "<image> is.", "2 images and 3 <image>"),
    (ANSWER, "", "is empty"),
    (ANSWER, None, "'content'"),
    (ANSWER, "a<|endoftext|>", "'<|endoftext|>'"),
    (ANSWER, "word " * 2000, "data.max_answer_tokens"),
    ("messages.1.tool_calls", [{"id": 1}], "'tool_calls'"),
    ("messages.1.reasoning_content", "so", "'reasoning_content'"),
    ("messages.0.loss", True, "'loss'"),
    ("conversations", [], "'conversations'"),
    ("videos", ["a.mp4"], "'videos'"),
    ("tools", "[]x", "'tools'"),
    ("images", ABSENT, "0 images and 2 <image>"),
    ("images", [], "0 images and 2 <image>"),
    ("images", "photos/1.jpg", "1 images and 2 <image>"),
    ("images.0", None, "no file name"),
    ("images.0", 3, "no file name"),
    ("images.0", "", "does not stay below"),
    ("images.0", "a\0.jpg", "does not stay below"),
    ("images.0", "../outside/secret.jpg", "does not stay below"),
    ("images.0", "/etc/passwd", "does not stay below"),
    ("images.0", "C:\\x.jpg", "does not stay below"),
    ("images.0", "http://x/y.jpg", "no file name"),
    ("images.0", "data:image/png;base64,AAAA", "no file name"),
    ("images.0", {"url": "x.jpg"}, "no file name"),
    ("images.0", "photos/3.jpg", "photos/3.jpg"),
    ("images.0", "photos/1.JPG", "'photos/1.jpg' is there"),
    ("images.0", "photos/\x1b[2J.jpg", "1 of the"),
)
"""A place in the second row, what stands there, words of the message."""

LINES: tuple[tuple[str, bytes, str], ...] = (
    ("an open brace", b"{", "not JSON"),
    ("HTML", b"<!DOCTYPE html><html></html>", "not JSON"),
    ("gzip", b"\x1f\x8b\x08\x00\x00\x00", "UTF-8"),
    ("Latin-1", '{"messages": "é"}'.encode("latin-1"), "UTF-8"),
    ("UTF-16", json.dumps(GOOD).encode("utf-16-le"), "UTF-8|not JSON"),
    ("NULs", b"\0" * 4096, "not JSON"),
    ("100,000 brackets", b"[" * 100_000, "too deep"),
    ("a number of 10,000 digits", b'{"images": ' + b"9" * 10_000 + b"}", "not JSON"),
    ("a list", json.dumps([GOOD]).encode(), "expected an object"),
    ("two rows", f"{json.dumps(GOOD)} {json.dumps(GOOD)}".encode(), "not JSON"),
    ("a text", b'"why?"', "expected an object"),
)
"""What the second line is, its content, words of the message."""


def _photos(place: Place) -> Path:
    """Two photographs; and one that is outside."""
    photos = place.folder / "photos"
    photos.mkdir()
    for at, colour in enumerate(("red", "blue"), 1):
        Image.new("RGB", (64, 48), colour).save(photos / f"{at}.jpg")
    Image.new("RGB", (64, 48)).save(place.outside / "secret.jpg")
    return photos


def _fit(place: Place, *more: object) -> list[object]:
    return ["fit", "--config", place.config(), "--data.train.source", "my.jsonl", *more]


def _written(place: Place, *rows: Any) -> None:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    (place.folder / "my.jsonl").write_bytes(b"\n".join(lines))


def _second_line(row: Any, *more: object) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        _photos(place)
        _written(place, GOOD, row, GOOD)
        return _fit(place, *more)

    return prepare


def _special(make: Callable[[Path], object]) -> Callable[[Place], list[object]]:
    """Something else than an image under an image's name."""

    def prepare(place: Place) -> list[object]:
        photo = _photos(place) / "1.jpg"
        photo.unlink()
        make(photo)
        _written(place, GOOD, GOOD)
        return _fit(place)

    return prepare


def _file(name: str, content: bytes | None, *more: object) -> Callable[[Place], list[object]]:
    """A whole source; None: a folder of its name."""

    def prepare(place: Place) -> list[object]:
        _photos(place)
        path = place.folder / name
        path.mkdir() if content is None else path.write_bytes(content)
        return ["fit", "--config", place.config(), "--data.train.source", name, *more]

    return prepare


def _tested(rows: list[Any], *options: object) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        _photos(place)
        _written(place, *rows)
        for name in ("photos", "my.jsonl"):
            place.copy(place.folder / name, f"twin/{name}")
        return ["test", "--config", place.config(), "--results", "results", *options]

    return prepare


def _done(place: Place, *words: object) -> str:
    done = place.laid(*words)
    assert done.code == 0, str(done)
    assert_clean(place, done)
    return done.said


def _read_whole(*rows: Any, said: str = "") -> Callable[[Place], None]:
    """They are trained and tested, every one."""

    def check(place: Place) -> None:
        _photos(place)
        _written(place, *rows)
        some = ("--data.global_batch_size", 1, "--trainer.max_epochs", 1)
        text = _done(place, *_fit(place, *some, "--data.train.turns", "all"))
        assert said in text, text
        steps = sum(bool(row) for row in rows)
        assert (place.folder / "runs" / "run" / "checkpoints" / f"step={steps}.ckpt").exists()
        source = ("--data.test.source", '["my.jsonl"]')
        _done(place, "test", "--ckpt_path", "runs/run", *source)
        results = place.folder / "runs" / "run" / "sources" / "my" / "results.json"
        assert json.loads(results.read_text())["overall"]["n"] == steps

    return check


LONG = changed(GOOD, QUESTION, "<image><image> " + "word " * 20_000)
TALK = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}
NUMBER = changed(GOOD, ANSWER, "3")
SCORED = ("--data.test.source", '["my.jsonl"]', "--data.test.scoring")
BOTH = ("--data.test.source", '["my.jsonl", "twin/my.jsonl"]')
RETRIEVAL = ("--model.objective.retrieval.weight", 1)
MIXTURE = ("--data.train.source", "null", "--data.train.mixture")

CASES: list[Case] = [
    *(
        refusal(
            KIND,
            f"row {where} {'absent' if value is ABSENT else repr(value)[:40]}",
            _second_line(changed(GOOD, where, value)),
            "my.jsonl",
            "line 2",
            word,
            sample=n == 19,
        )
        for n, (where, value, word) in enumerate(ROWS)
    ),
    *(
        refusal(KIND, f"a line that is {what}", _second_line(line), "my.jsonl, line 2", word)
        for what, line, word in LINES
    ),
    refusal(KIND, "nothing in the file", _file("my.jsonl", b""), "has no rows"),
    refusal(KIND, "blank lines alone", _file("my.jsonl", b"\n \n"), "has no rows"),
    refusal(KIND, "a folder of the file's name", _file("my.jsonl", None), "my.jsonl"),
    refusal(KIND, "no such file", _file("other.jsonl", b""), "other.jsonl"),
    refusal(KIND, "lines in a file that ends in .json", _file("my.json", b"{}\n{}"), "my.json"),
    refusal(
        KIND,
        "a list that is cut off",
        _file("my.json", json.dumps([GOOD, GOOD]).encode()[:-9]),
        "my.json",
    ),
    refusal(
        KIND,
        "a list whose second row is bad",
        _file("my.json", json.dumps([GOOD, {**GOOD, "images": []}], indent=1).encode()),
        "my.json, line",
        "(entry 1)",
    ),
    refusal(KIND, "a folder of an image's name", _special(Path.mkdir), "1.jpg", "no file"),
    refusal(KIND, "a pipe of an image's name", _special(os.mkfifo), "1.jpg", "no file"),
    refusal(KIND, "a broken link", _special(lambda path: path.symlink_to("nowhere")), "1.jpg"),
    refusal(KIND, "a link to itself", _special(lambda path: path.symlink_to(path)), "1.jpg"),
    refusal(KIND, "an empty image", _special(Path.touch), "1.jpg", "empty"),
    refusal(KIND, "a text as an image", _special(lambda path: path.write_text("hi")), "1.jpg"),
    refusal(
        KIND, "no such image_root", _second_line(GOOD, "--data.image_root", "absent"), "absent"
    ),
    refusal(
        KIND,
        "a turn of 20,000 words beyond max_length",
        _second_line(LONG, "--data.max_length", 5000),
        "line 2",
        "data.max_length",
        leaves=("runs/*",),
    ),
    refusal(
        KIND,
        "no image, and a term that needs some",
        _file("my.jsonl", "\n".join([json.dumps(TALK)] * 2).encode(), *RETRIEVAL),
        "objective.retrieval",
        "none of the 2 training entries has an image",
    ),
    refusal(KIND, "an answer that is no number", _tested([GOOD], *SCORED, "numeric"), "line 1"),
    refusal(KIND, "an answer that is no letter", _tested([GOOD], *SCORED, "choice"), "line 1"),
    refusal(KIND, "an answer of neither word", _tested([GOOD], *SCORED, "yes-no"), "line 1"),
    refusal(KIND, "no such rule", _tested([GOOD], *SCORED, "fuzzy"), "scoring"),
    refusal(
        KIND,
        "a rule for no source",
        _tested([GOOD], *SCORED, "{other.jsonl: exact}"),
        "other.jsonl",
    ),
    refusal(KIND, "two sources of one name", _tested([GOOD], *BOTH), "twice|both be"),
    refusal(
        KIND, "a question without an answer", _tested([{**GOOD, "messages": GOOD["messages"][:1]}],
        *SCORED, "exact"), "line 1", "expected an answer",
    ),
    refusal(KIND, "a mixture with no such file", _second_line(
        GOOD, *MIXTURE, "{built: 1, no.jsonl: 1}"), "no.jsonl"),
    refusal(KIND, "a mixture that draws none", _second_line(
        GOOD, *MIXTURE, "{my.jsonl: 1, built: 0.0001}"), "built"),
    Case(KIND, "rows with and without images", _read_whole(
        GOOD, BARE, {**TALK, "images": []}, {**GOOD, "id": 7}, said="2 of 4 rows have no image")),
    Case(KIND, "no row has an image", _read_whole(BARE, TALK, said="2 of 2 rows have no image")),
    Case(KIND, "a byte order mark, CRLF and blank lines", _read_whole(
        b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r", b"", json.dumps(TALK).encode())),
    Case(KIND, "200 turns", _read_whole({"messages": TALK["messages"] * 100}, GOOD)),
    Case(KIND, "texts of every script, and escape codes", _read_whole(
        changed(GOOD, QUESTION, "<image><image> Что? 何ですか 🏖 ﷽ a\x1b[2J\x07b"), TALK)),
]  # fmt: skip
