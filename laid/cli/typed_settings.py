"""What a user typed, before it is parsed, and what it changed."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from laid.common.errors import UserError

_CONFIG = ("--config", "-c")


def configs_first(typed: list[str]) -> list[str]:
    """The command line with every ``--config FILE`` moved to its beginning.

    The parser lets what comes later win, so a setting typed before ``--config`` would lose to the
    file; typed settings are to go over files wherever they stand.
    """
    files: list[str] = []
    rest: list[str] = []
    words = iter(typed)
    for word in words:
        if word in _CONFIG:
            files += [word, *([following] if (following := next(words, None)) else [])]
        elif word.startswith("--config="):
            files.append(word)
        else:
            rest.append(word)
    return files + rest


def typed_value(typed: list[str], key: str) -> Any:
    """The value that the command line, else the last ``--config`` that has it, gives to a key.

    Args:
        typed: the command line.
        key: in dots, such as ``trainer.default_root_dir``.
    """
    value = None
    for at, word in enumerate(typed):
        following = typed[at + 1] if at + 1 < len(typed) else None
        if word in _CONFIG or word.startswith("--config="):
            found = _in_file(word.partition("=")[2] or following or "", key)
            value = value if found is None else found
    return _settings(typed).get(key, value)


def _settings(typed: list[str]) -> dict[str, Any]:
    """What the command line sets, by key in dots; ``--data.test '{split: x}'`` as its parts."""
    found: dict[str, Any] = {}
    for at, word in enumerate(typed):
        if not word.startswith("--"):
            continue
        key, given, value = word[2:].partition("=")
        if not given:
            value = typed[at + 1] if at + 1 < len(typed) else ""
        found.update(_parts(key, value))
    return found


def _parts(key: str, value: Any) -> dict[str, Any]:
    content = value
    if isinstance(value, str) and value.lstrip().startswith("{"):
        with suppress(yaml.YAMLError):
            content = yaml.safe_load(value)
    if not isinstance(content, dict):
        return {key: value}
    inside: dict[str, Any] = {}
    for name, part in content.items():
        inside.update(_parts(f"{key}.{name}", part))
    return inside


def _in_file(path: str, key: str) -> Any:
    if not Path(path).is_file():
        return None
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return None  # the parser will say what is wrong with it
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


_BUILT = {
    "train": ("split", "min_size", "max_size"),
    "validate": ("split",),
    "test": ("split",),
}
"""What says how entries are built."""


def refuse_unused(typed: list[str], data: Any) -> None:
    """Refuses what was typed of entries that are built, where they come from a source.

    In a file it may stand: that file may be for others too.

    Args:
        typed: the command line.
        data: the settings ``data``.

    Raises:
        UserError: there is such a setting on the command line.
    """
    settings = _settings(typed)
    for stage, keys in _BUILT.items():
        given = data[stage] is not None and data[stage].source is not None
        for key in keys if given else ():
            name = f"data.{stage}.{key}"
            if name in settings:
                raise UserError(
                    f"--{name} is of entries that are built, and data.{stage}.source gives some "
                    "that are there already: leave one of the two out"
                )


def order_seed(seed: bool | int) -> int:
    """The seed of the training order that goes with ``seed_everything``.

    Raises:
        UserError: it is true, which draws another seed each time.
    """
    if seed is True:
        raise UserError("seed_everything true: expected a number, that the run can be had again")
    return int(seed)


def changes(before: Any, after: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Keys whose value is another than before, in dots; what is on one side only is passed over,
    since versions of laid may know different keys."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before.keys() & after.keys():
            yield from changes(before[name], after[name], f"{key}.{name}" if key else name)
    elif before != after:
        yield key, before, after
