"""Text from files and command lines, made safe for a terminal, a spreadsheet and Markdown."""

import re

HALF = re.compile(r"[\ud800-\udfff]")
"""Half of a surrogate pair: JSON may escape it, and a name or an argument that is not UTF-8 has it.
It can't be written as UTF-8."""

# What Markdown would take for its own; "<0.001" and an interval in brackets it leaves alone.
_MARKDOWN = re.compile(r"[\\|*_`]|<(?=[a-zA-Z/!?])|\](?=\()|&(?=#?\w+;)")


def printable(text: str) -> str:
    """``text`` with control characters written out (``\\x1b``): none reaches a terminal. Line
    breaks and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in text)


def one_line(text: str) -> str:
    """``printable`` on one line, for a cell or a heading."""
    return " ".join(printable(text).split("\n"))


def for_markdown(text: str) -> str:
    """``one_line`` as Markdown shows it: no formatting, link or HTML of its own."""
    return _MARKDOWN.sub(r"\\\g<0>", one_line(text))


def code(text: str) -> str:
    """``one_line`` as inline code of Markdown, whatever backticks it has."""
    text = one_line(text)
    longest = max([0, *(len(run) for run in re.findall("`+", text))])
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}" if longest else f"{fence}{text}{fence}"


def for_spreadsheet(text: str) -> str:
    """``one_line`` as a cell that no spreadsheet takes for a formula."""
    text = one_line(text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") else text


def for_file_name(text: str) -> str:
    """``text`` as a part of a file's name: letters, digits and ``_.-``, 80 at most."""
    return re.sub(r"[^\w.-]+", "-", text)[:80]


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
