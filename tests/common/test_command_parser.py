"""What every command's parser does beyond jsonargparse's."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from laid.common.command_parser import CommandParser
from laid.common.errors import UserError


@dataclass
class Inner:
    pair: tuple[float, float] = (0.0, 1.0)
    limit: int | None = 3
    names: list[str] | None = None


@dataclass
class Outer:
    rate: float = 1.0
    kind: Literal["a", "b"] = "a"
    inner: Inner = field(default_factory=Inner)
    other: Inner | None = None


def parsed(*words):
    parser = CommandParser(prog="test")
    parser.add_argument("--outer", type=Outer | None, default=None)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--outer.rate=null", "outer.rate null: expected float"),
        ("--outer.kind=null", r"outer.kind null: expected Literal\['a', 'b'\]"),
        ("--outer.inner=null", "outer.inner null: expected Inner"),
        ("--outer={inner: {pair: null}}", r"outer.inner.pair null: expected tuple\[float, float\]"),
        ("--outer={other: {pair: null}}", r"outer.other.pair null: expected tuple\[float, float\]"),
    ],
)
def test_null_is_refused_where_the_type_has_none(word, message):
    """Else it would be met where the setting is used, in an error that does not name it."""
    with pytest.raises(UserError, match=f"^{message}$"):
        parsed(word)


def test_a_wrong_value_is_told_in_one_line_with_its_setting_and_types():
    words = r"outer.names one: expected one of list\[str\], NoneType, in brackets: \[A, B\] "
    parser = CommandParser(prog="test")
    parser.add_argument("--outer", type=Inner | None, default=None)
    with pytest.raises(UserError, match=f"^{words}.*lists the options.$"):
        parser.parse_args(["--outer.names", "one"])


def test_null_is_taken_where_the_type_has_it():
    assert parsed("--outer=null").outer is None
    assert parsed("--outer.other=null").outer.other is None
    assert parsed("--outer={inner: {limit: null}}").outer.inner.limit is None
