"""What every command's parser does beyond jsonargparse's."""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import is_dataclass
from inspect import isclass
from itertools import chain, groupby
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, get_args, get_type_hints

import jsonargparse

from laid.common.errors import UserError
from laid.common.yaml_text import check_settings_file, check_typed


class CommandParser(jsonargparse.ArgumentParser):
    """jsonargparse's parser; typed settings take precedence over files wherever they stand, options
    can't be shortened, ``~`` is the user's home, and an error is a ``UserError``."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *more: Any, **options: Any
    ) -> jsonargparse.Namespace:
        files, typed = split_configs(self.prog, sys.argv[1:] if args is None else args)
        for _, path in files:
            check_settings_file(Path(path).expanduser())
        for word in typed:
            check_typed(word.partition("=")[2] if word.startswith("--") else word)
        parsed = super().parse_args([*chain(*files), *typed], *more, **options)
        for action in self._actions:
            hint = getattr(action, "_typehint", None)
            if hint is not None and action.dest in parsed:
                _refuse_null(action.dest, hint, parsed[action.dest])
        expand_home(parsed)
        return parsed

    def instantiate(self, *args: Any, **options: Any) -> jsonargparse.Namespace:
        try:
            return super().instantiate(*args, **options)
        except ValueError as error:
            # Of a class that may be None, jsonargparse raises an error of its own.
            if isinstance(error.__cause__, UserError):
                raise error.__cause__ from None
            raise

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if self.exit_on_error:  # jsonargparse tries the types of a union without it
            said = _innermost(message.strip())
            raise UserError(f"{said} (`{self.prog} --help` lists the options)") from ex
        super().error(message, ex)


def _innermost(message: str) -> str:
    """Of a setting, jsonargparse tells all that it tried, over many lines where the setting is of a
    dataclass that may be None; what matters is the setting, its types and what was given."""
    # A file that is none is named twice.
    keys = [key for key, _ in groupby(re.findall(r'Parser key "([^"]+)"', message))]
    if not keys:
        return message
    key, inner = ".".join(keys), message.rpartition(f'Parser key "{keys[-1]}"')[2]
    if odd := re.search(r"Option '(.+)' is not accepted|unrecognized arguments: --([\w.]+)", inner):
        return f"{key}.{odd[1] or odd[2]}: there is no such setting"
    if found := re.search(r"Expected an? (.+)\. Got value: (.*)", inner):
        return f"{key} {found[2]}: expected {_types(found[1])}"
    found = re.search(r"Subtypes: \[(.+)\]\n(?:.*\n)*?\s+Given value: (.*)", inner)
    of_settings = "dot import path" in inner or "valid subclass" in inner
    if found is not None and not of_settings:
        brackets = ", in brackets: [A, B]" if "list[" in found[1] else ""
        return f"{key} {found[2]}: expected one of {_types(found[1])}{brackets}"
    if given := found[2] if found is not None else _of_file(message):
        return f"{key} {given}: {_SETTINGS.format(key)}"
    return message


_SETTINGS = "expected its settings, as --{}.NAME VALUE or in a YAML file"


def _types(text: str) -> str:
    """Types as they are written in Python."""
    return re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.", r"\1", text)


def _of_file(message: str) -> str | None:
    """What was given in place of a file of settings."""
    found = re.search(r"Unable to load config '(.*)'", message)
    return found and found[1]


def _refuse_null(key: str, hint: Any, value: Any) -> None:
    """jsonargparse takes null for any setting of a dataclass, and a list for a dataclass.

    Raises:
        UserError: a setting within ``value`` is null and its type is not, or is none of settings.
    """
    if not isinstance(value, jsonargparse.Namespace):
        return
    for kind in filter(is_dataclass, (hint, *get_args(hint))):
        for name, inner in get_type_hints(kind).items():
            if name not in value:
                continue
            if value[name] is None and NoneType not in get_args(inner):
                what = inner.__name__ if isclass(inner) else str(inner).removeprefix("typing.")
                raise UserError(f"{key}.{name} null: expected {what}")
            if is_dataclass(inner) and isinstance(value[name], list | str | float | int):
                said = _SETTINGS.format(f"{key}.{name}")
                raise UserError(f"{key}.{name} {value[name]}: {said}")
            _refuse_null(f"{key}.{name}", inner, value[name])


def split_configs(prog: str, words: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """Each ``--config FILE`` of a command line, in their order, and all other words of it."""
    configs = argparse.ArgumentParser(prog, add_help=False, allow_abbrev=False, exit_on_error=False)
    configs.add_argument("-c", "--config", action="append", default=[])
    try:
        found, rest = configs.parse_known_args(words)
    except argparse.ArgumentError as reason:
        raise UserError(f"{reason} (`{prog} --help` lists the options)") from reason
    return [["--config", path] for path in found.config], rest


def expand_home(value: Any) -> Any:
    """Parsed settings with every text that is ``~`` or begins with ``~/`` as a path in the user's
    home: a shell expands it neither in ``--out=~/x`` nor in a YAML file. Dictionaries and
    namespaces are changed in place."""
    if isinstance(value, str):
        return str(Path(value).expanduser()) if value == "~" or value.startswith("~/") else value
    if isinstance(value, list):
        return [expand_home(part) for part in value]
    if isinstance(value, dict | argparse.Namespace):
        inside = value if isinstance(value, dict) else vars(value)
        inside.update({key: expand_home(part) for key, part in inside.items()})
    return value
