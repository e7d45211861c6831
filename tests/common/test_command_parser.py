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
    parser.add_argument("--own", type=int, default=0)
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


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--outer.rate=x", "outer.rate x: expected float"),
        ("--outer.kind=c", r"outer.kind c: expected Literal\['a', 'b'\]"),
        ("--outer.inner.limit=x", "outer.inner.limit x: expected one of int, NoneType"),
        ("--outer.zzz=1", "outer.zzz: there is no such setting"),
        ("--outer.inner.zzz=1", "outer.inner.zzz: there is no such setting"),
        ("--outer=all", "outer all: expected its settings, as --outer.NAME VALUE or in a YAML"),
        ("--outer=[1]", r"outer \[1\]: expected its settings, as --outer.NAME VALUE"),
        ("--outer.inner=3", "outer.inner 3: expected its settings, as --outer.inner.NAME VALUE"),
        ("--outer.inner=[1]", r"outer.inner \[1\]: expected its settings"),
        ("--own=x", "own x: expected int"),
    ],
)
def test_what_can_not_be_read_is_told_in_one_line(word, message):
    with pytest.raises(UserError, match=f"^{message}") as raised:
        parsed(word)
    assert "\n" not in str(raised.value)


def test_null_is_taken_where_the_type_has_it():
    assert parsed("--outer=null").outer is None
    assert parsed("--outer.other=null").outer.other is None
    assert parsed("--outer={inner: {limit: null}}").outer.inner.limit is None
