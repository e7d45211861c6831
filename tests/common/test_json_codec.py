"""Dataclasses come back from JSON equal, and what does not fit is refused by name."""

import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from laid.common.errors import UserError
from laid.common.json_codec import from_json, plain, to_json


@dataclass(frozen=True)
class Part:
    from_: float
    pair: tuple[float, float] | None

    def __post_init__(self):
        if self.from_ < 0:
            raise UserError("from is negative")


@dataclass(frozen=True)
class Whole:
    FORMAT: ClassVar = {"laid_whole": 3}

    name: str
    parts: tuple[Part, ...]
    by_size: dict[int, list[Part]]
    free: dict[str, Any]
    done: bool = False
    note: str | None = None
    extra: dict[str, int] = field(default_factory=dict)


WHOLE = Whole("a", (Part(0.5, (1.0, 2.0)),), {20: [Part(1.0, None)], 100: []}, {"x": [1, None]})


def test_a_dataclass_comes_back_equal():
    for whole in (WHOLE, Whole("b", (), {}, {}, True, "n", {"k": 1})):
        assert from_json(Whole, json.loads(json.dumps(to_json(whole)))) == whole


def test_the_json_has_the_version_first_and_the_fields_in_order():
    assert list(to_json(WHOLE)) == [
        "laid_whole",
        "name",
        "parts",
        "by_size",
        "free",
        "done",
        "note",
    ]
    assert to_json(WHOLE)["parts"] == [{"from": 0.5, "pair": [1.0, 2.0]}]
    assert to_json(WHOLE)["by_size"].keys() == {"20", "100"}


def test_a_whole_number_is_a_number_and_fields_with_defaults_may_be_missing():
    content = {"laid_whole": 3, "name": "a", "parts": [{"from": 1, "pair": None}], "free": {}}
    found = from_json(Whole, {**content, "by_size": {}})
    assert found == Whole("a", (Part(1.0, None),), {}, {})
    assert type(found.parts[0].from_) is float


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"laid_whole": 4}, "laid_whole is 4, expected 3"),
        ({"nam": "a", "x": 1}, "unknown: nam, x"),
        ({"name": 1}, "name is 1, expected a string"),
        ({"name": None}, "name is null, expected a string"),
        ({"done": 1}, "done is 1, expected true or false"),
        ({"extra": {"k": True}}, "extra.k is true, expected a whole number"),
        ({"free": []}, "free is [], expected an object"),
        ({"parts": {}}, "parts is {}, expected an array"),
        ({"parts": [{"from": 1.0}]}, "missing: parts[0].pair"),
        ({"parts": [{"from": "1", "pair": None}]}, 'parts[0].from is "1", expected a number'),
        ({"parts": [{"from": 1, "pair": [1]}]}, "parts[0].pair has 1 elements, expected 2"),
        ({"parts": [{"from": -1, "pair": None}]}, "parts[0].from is negative"),
        ({"by_size": {"ten": []}}, "by_size.ten: expected a whole number as the key"),
        ({"by_size": {"9" * 20: []}}, f"by_size.{'9' * 20}: expected a whole number as the key"),
        ({"extra": {"k": 2**63}}, "extra.k is 9223372036854775808, more than 64 bits hold"),
        (
            {"parts": [{"from": float("inf"), "pair": None}]},
            "parts[0].from is inf, expected a finite number",
        ),
        (
            {"free": {"a": json.loads("[" * 200 + "]" * 200)}},
            "free.a is nested more than 100 levels deep",
        ),
        ({"by_size": {"10": [{}]}}, "missing: by_size.10[0].from, by_size.10[0].pair"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    with pytest.raises(UserError) as refusal:
        from_json(Whole, to_json(WHOLE) | changes)
    assert str(refusal.value) == message


@pytest.mark.parametrize("content", [None, [], 3, "x"])
def test_what_is_no_object_is_refused(content):
    with pytest.raises(UserError, match="expected an object"):
        from_json(Whole, content)


def test_plain_is_what_a_reader_gets_and_refuses_what_is_not_json():
    assert plain({"b": (1, 2), "a": 1}, "it") == {"b": [1, 2], "a": 1}
    assert list(plain({"b": 1, "a": 1}, "it", sort_keys=True)) == ["a", "b"]
    with pytest.raises(UserError, match="it must be JSON"):
        plain({"x": float("nan")}, "it")
