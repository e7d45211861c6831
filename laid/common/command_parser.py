"""What every command's parser does beyond jsonargparse's."""

import argparse
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

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
            raise UserError(f"{message.strip()} (`{self.prog} --help` lists the options)") from ex
        super().error(message, ex)


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
