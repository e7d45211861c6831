"""JSON that is none, and JSON with one value changed."""

import json
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[1] / "fixtures"
ABSENT = object()

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
"""What it is, content of a file, words of the message where lists and objects are expected."""


def changed(content: Any, where: str, value: object) -> Any:
    """JSON with the value at a place, in dots, another one or absent."""
    content = json.loads(json.dumps(content))
    inner = content
    *parents, last = where.split(".")
    for key in parents:
        inner = inner[_key(inner, key)]
    if value is ABSENT:
        del inner[_key(inner, last)]
    else:
        inner[_key(inner, last)] = value
    return content


def _key(inner: Any, key: str) -> Any:
    return int(key) if isinstance(inner, list) else key
