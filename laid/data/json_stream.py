"""Read one large JSON object piece by piece, in memory that does not grow with the file.

``json.load`` of the annotations of COCO's 118,287 training images makes some sixty million Python
objects, nearly all of them corners of polygons that nobody here looks at. The standard library's
decoder can also decode one value at a given place in a string, so a long list can be walked an
element at a time, each freed before the next is made; and a regular expression blots the polygons
out before the decoder gets to see them. `benchmarks/coco_index.py` measures what that comes to.
"""

import codecs
import json
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any

from laid.common.errors import UserError

_CHUNK_BYTES = 1 << 22
# How far from the end of what has been read an error may lie and still mean only "read on".
_NEAR_END = 1 << 16
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class JsonStream:
    """Iterate over a file's top-level object as ``(key, value)``.

    The lists under the names in ``arrays`` come an element at a time, ``(key, element)``; the
    other members whole. ``keys`` fills with the names seen (an empty list yields nothing, but its
    name is there).

    Args:
        path: a UTF-8 JSON file whose top level is an object.
        arrays: the members to be walked element by element; each must be a list.
        blot: the names of members, at any depth, that nobody wants: where their value is a list
            of lists of numbers, None may be given for it.
        progress: called with the number of bytes of every piece read.

    Raises:
        UserError: while iterating, for text that is not such JSON: names the file and the
            position, in characters from its start.
        OSError: the file cannot be opened or read.
    """

    def __init__(
        self,
        path: Path,
        arrays: Collection[str],
        blot: Collection[str] = (),
        progress: Callable[[int], Any] = lambda count: None,
    ) -> None:
        self.path = path
        self.keys: set[str] = set()
        self._arrays = frozenset(arrays)
        self._unwanted = _lists_of_numbers(blot)
        self._progress = progress
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0  # where in _text we are
        self._base = 0  # characters of the file that came before _text
        self._ended = False

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        with open(self.path, "rb") as self._file:
            self._expect("{", "an object at the top level")
            if self._peek() != "}":
                yield from self._member()
                while self._peek() == ",":
                    self._at += 1
                    yield from self._member()
            self._expect("}", "',' or '}'")
            if self._peek():
                raise self._error("expected the end of the file")

    _file: IO[bytes]

    def _member(self) -> Iterator[tuple[str, Any]]:
        if self._peek() != '"':
            raise self._error("expected a member's name in double quotes")
        key = self._value()
        self.keys.add(key)
        self._expect(":", "':'")
        if key not in self._arrays:
            yield key, self._value()
            return
        self._expect("[", f"a list under {key!r}")
        if self._peek() != "]":
            yield key, self._value()
            while self._peek() == ",":
                self._at += 1
                yield key, self._value()
        self._expect("]", "',' or ']'")

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut_off = (
                    error.msg.startswith("Unterminated string")
                    or error.pos > len(self._text) - _NEAR_END
                )
                if self._ended or not cut_off:
                    raise self._error(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:
                raise self._error(str(error)) from error
            else:
                # "12" at the end of what was read may be the head of "123".
                if end < len(self._text) or self._ended:
                    self._at = end
                    return value
            self._read_on()

    def _peek(self) -> str:
        """The next character that is not white space; '' at the end of the file."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None, "the pattern matches the empty string"
            self._at = space.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._read_on()

    def _expect(self, character: str, what: str) -> None:
        if self._peek() != character:
            raise self._error(f"expected {what}")
        self._at += 1

    def _read_on(self) -> None:
        rest = self._text[self._at :]
        # At least doubling keeps the work linear when one value spans many pieces.
        data = self._file.read(max(_CHUNK_BYTES, len(rest)))
        self._progress(len(data))
        self._ended = not data
        self._base, self._at = self._base + self._at, 0
        try:
            text = rest + self._utf8.decode(data, final=self._ended)
            # As many characters as before, so that positions in error messages stay true. A value
            # that runs on beyond this piece does not match and is simply decoded.
            self._text = self._unwanted.sub(_null_of_equal_length, text)
        except UnicodeDecodeError as error:
            self._text, self._at = rest, len(rest)
            raise self._error(f"the file is not UTF-8 text ({error.reason})") from error

    def _error(self, message: str, at: int | None = None) -> UserError:
        position = self._base + (self._at if at is None else at)
        return UserError(
            f"{self.path} is not the JSON expected here: {message} (character {position}). "
            "If the file was downloaded, it may be cut off: fetch it again."
        )


def _lists_of_numbers(names: Collection[str]) -> re.Pattern[str]:
    """Match ``"name": [[1, 2.5], ...]``.

    A quotation mark inside a JSON string is written with a backslash before it, so the two marks
    around the name can only be those of a real member. Possessive quantifiers keep it linear.
    """
    name = "|".join(re.escape(name) for name in names) or r"(?!)"
    numbers = r"\[[-+.0-9eE,\s]*+\]"
    return re.compile(rf'"(?:{name})"\s*+:\s*+\[\s*+(?:{numbers}\s*+,?+\s*+)*+\]')


def _null_of_equal_length(match: re.Match[str]) -> str:
    found = match[0]
    return (found[: found.index("[")] + "null").ljust(len(found))
