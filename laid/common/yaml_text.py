"""YAML that stays small: some lines of aliases can stand for more than any memory holds."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from laid.common.errors import UserError

_MOST, _DEEPEST = 100_000, 30


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which one would be ignored."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for at, key in enumerate(keys):
            if key.value in {other.value for other in keys[:at]}:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark
                )
        return node


def load_yaml(text: str, what: str) -> Any:
    """The content of YAML: plain data, as ``yaml.safe_load`` gives it.

    Args:
        what: the file or the like that the text is of, for messages.

    Raises:
        UserError: it is not YAML, has a key twice, or too much when each alias is replaced by what
            it stands for. Names the line.
    """
    try:
        _check_size(text, what)
        return yaml.load(text, _Loader)
    except yaml.YAMLError as reason:
        mark = getattr(reason, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        said = getattr(reason, "problem", None) or " ".join(str(reason).split())
        raise UserError(f"{what}{place}: not YAML: {said}") from reason
    except UserError:
        raise
    except (TypeError, ValueError) as reason:  # an impossible date, or a key that is a list
        raise UserError(f"{what}: {reason}") from reason


def check_settings_file(path: Path) -> None:
    """Refuses a file that holds no settings, or names a file in place of some that holds too much;
    one that can't be opened is left to its reader.

    Raises:
        UserError: as ``load_yaml``, or it is not in UTF-8, or it names itself.
    """
    content = _check_file(path, ())
    if not isinstance(content, dict | None):
        raise UserError(f"{path}: expected settings by name, found a {type(content).__name__}")


def check_typed(value: str) -> None:
    """Refuses a typed value that stands for too much, or the name of a file that does.

    Raises:
        UserError: as ``load_yaml``.
    """
    for inner in _named_files(value):
        _check_file(Path(inner).expanduser(), ())
    with suppress(yaml.YAMLError):  # what is not YAML may be a text
        _check_size(value, value[:40])


def _check_file(path: Path, outer: tuple[Path, ...]) -> Any:
    """The content of a file, None if it can't be opened; ``outer`` are those that name it."""
    if path in outer:
        raise UserError(f"{path}: named in place of settings by itself or a file that it names")
    try:
        content = load_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError:
        return None
    except UnicodeDecodeError as reason:
        raise UserError(f"{path}: expected text in UTF-8 ({reason})") from reason
    for inner in _named_files(content):
        _check_file(path.parent / inner, (*outer, path))
    return content


def _named_files(content: Any) -> Iterator[str]:
    if isinstance(content, str) and content.endswith((".yaml", ".yml")):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from _named_files(value)


def _check_size(text: str, what: str) -> None:
    sizes: dict[str | None, int] = {}
    open_: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, total))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            sizes[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            endless = event.anchor in dict(open_)
            total += _MOST if endless else sizes.get(event.anchor, 0)
        total += isinstance(event, yaml.NodeEvent)
        if total > _MOST or len(open_) > _DEEPEST:
            line = event.start_mark.line + 1 if event.start_mark else "?"
            raise UserError(
                f"{what}, line {line}: more than {_MOST} values with aliases replaced by what "
                f"they stand for, or more than {_DEEPEST} levels deep"
            )
