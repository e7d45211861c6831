"""Frozen dataclasses as JSON and back.

A dataclass is an object with its fields as keys, in order; a trailing underscore of a field
(``from_``) is not in its key. ``FORMAT: ClassVar`` of a class, such as ``{"laid_results": 1}``, is
written first, and must be found unchanged. A field with a default may be missing, and one with a
``default_factory`` is not written where it is empty.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from laid.common.errors import UserError
from laid.common.json_files import excerpt

Json = dict[str, Any]
"""A JSON object that laid carries and does not look into."""

T = TypeVar("T")
_DEEPEST = 100
"""Levels of what is not looked into: Python's own functions stop at some hundreds."""
_SHOWN = 60
"""Characters of a value in a message."""
_NAMES = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}
_NAMES |= {int: "a whole number", float: "a number"}


def to_json(value: Any) -> Any:
    """What ``json.dumps`` takes, of a dataclass and all that is in it."""
    if is_dataclass(value):
        found = {field: getattr(value, field.name) for field in fields(value)}
        written = {f: v for f, v in found.items() if v or f.default_factory is MISSING}
        content = {field.name.rstrip("_"): to_json(inside) for field, inside in written.items()}
        return getattr(value, "FORMAT", {}) | content
    if isinstance(value, Mapping):
        return {str(key): to_json(inside) for key, inside in value.items()}
    return [to_json(inside) for inside in value] if isinstance(value, list | tuple) else value


def from_json(kind: type[T], content: object, at: str = "") -> T:
    """The dataclass ``kind`` of what ``json.loads`` gave.

    Args:
        kind: its fields are ``bool``, ``int``, ``float``, ``str``, ``Any``, dataclasses, and lists,
            tuples, dictionaries (keys ``str`` or ``int``) and ``X | None`` of these.
        at: the key that the content stands at, for messages.

    Raises:
        UserError: the version is another, a field is unknown, missing or of another type, or the
            dataclass refuses a value with a message that begins with the field's name. The message
            names the field in dots.
    """
    return cast(T, _decode(kind, content, at))


def plain(content: Json, what: str, sort_keys: bool = False) -> Json:
    """As a reader of the file gets it: a tuple is a list. Raises ``UserError`` where it, ``what``
    in the message, can't be written as JSON."""
    try:
        return cast(Json, json.loads(json.dumps(content, sort_keys=sort_keys, allow_nan=False)))
    except (TypeError, ValueError) as error:
        advice = "give paths and versions as str, arrays as list"
        raise UserError(f"{what} must be JSON ({error}); {advice}") from error


def _decode(kind: Any, content: object, at: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        if _deeper(content, _DEEPEST):
            raise UserError(f"{at} is nested more than {_DEEPEST} levels deep")
        return content
    if is_dataclass(kind):
        return _decode_fields(kind, _expect(dict, content, at), at)
    if NoneType in args:
        return None if content is None else _decode(args[0], content, at)
    if origin is dict:
        items = {key: (value, _join(at, key)) for key, value in _expect(dict, content, at).items()}
        for key, (_, where) in items.items():
            if args[0] is int and not (key.isdecimal() and len(key) < 20):
                raise UserError(f"{where}: expected a whole number as the key")
        return {args[0](key): _decode(args[1], *inside) for key, inside in items.items()}
    if origin in (list, tuple):
        parts = _expect(list, content, at)
        kinds = args if origin is tuple and args[-1] is not Ellipsis else args[:1] * len(parts)
        if len(kinds) != len(parts):
            raise UserError(f"{at} has {len(parts)} elements, expected {len(kinds)}")
        found = zip(kinds, parts, strict=True)
        return origin(_decode(k, part, f"{at}[{i}]") for i, (k, part) in enumerate(found))
    return _expect(kind, content, at)


def _decode_fields(kind: Any, content: Json, at: str) -> Any:
    version = getattr(kind, "FORMAT", {})
    for key, value in version.items():
        if content.get(key) != value:
            found = excerpt(content.get(key), _SHOWN)
            raise UserError(f"{_join(at, key)} is {found}, expected {value}")
    known = {field.name.rstrip("_"): field for field in fields(kind)}
    required = [k for k, f in known.items() if f.default is f.default_factory is MISSING]
    unknown = sorted(content.keys() - known.keys() - version.keys())
    missing = [key for key in required if key not in content]
    for what, keys in (("unknown", unknown), ("missing", missing)):
        if keys:
            raise UserError(f"{what}: {', '.join(_join(at, key) for key in keys)}")
    hints = _hints(kind)
    given = {field.name: key for key, field in known.items() if key in content}
    values = {name: _decode(hints[name], content[k], _join(at, k)) for name, k in given.items()}
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(_join(at, str(error))) from error


def _expect(kind: type, content: object, at: str) -> Any:
    if type(content) is int and abs(content) >= 2**63:
        raise UserError(f"{at or 'it'} is {excerpt(content, _SHOWN)}, more than 64 bits hold")
    if kind is float and type(content) is int:
        return float(content)
    # Not isinstance: to Python true is a whole number.
    if type(content) is not kind:
        raise UserError(f"{at or 'it'} is {excerpt(content, _SHOWN)}, expected {_NAMES[kind]}")
    if kind is float and not math.isfinite(cast(float, content)):
        raise UserError(f"{at or 'it'} is {content}, expected a finite number")
    return content


def _deeper(content: object, levels: int) -> bool:
    inside = content.values() if isinstance(content, dict) else content
    return isinstance(content, dict | list) and (
        levels == 0 or any(_deeper(part, levels - 1) for part in cast(Iterable[object], inside))
    )


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


_hints = cache(get_type_hints)
