"""One row of conversations, as LLaVA, ShareGPT, LLaMA-Factory, ms-swift and TRL write them.

docs/own_data.md has an example of each.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from laid.common.errors import UserError
from laid.common.json_files import excerpt
from laid.data.entries import Turn
from laid.vlm.processor import IMAGE_MARK

_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
}
_TURNS = ("messages", "conversations", "prompt")
_BESIDE_THE_TEXT = ("tool_calls", "function_call", "reasoning_content", "thinking")
_OTHER_MEDIA = ("videos", "video", "audios", "audio")


class Conversation(NamedTuple):
    """A row that was read.

    Attributes:
        turns: all that is said before the answer; the last is the user's. As many
            ``IMAGE_MARK`` as images are in the user's turns.
        answer: the assistant's last turn; "" where the row ends with the user's.
        images: as the row gives them, in the order in which they are shown.
    """

    turns: tuple[Turn, ...]
    answer: str
    images: tuple[Any, ...]


def is_conversation(row: object) -> bool:
    """Whether a row, or the names of its columns, is of conversations, by its keys; Visual
    Haystacks have some too."""
    haystack = ("pos_image", "neg_image")
    return (
        isinstance(row, Mapping)
        and any(key in row for key in _TURNS)
        and not any(key in row for key in haystack)
    )


def read_conversation(row: Any) -> Conversation:
    """Reads one row.

    Where no turn says where the images stand, they come before the user's first words.

    Raises:
        UserError: it is none; says what was found and what is expected.
    """
    if not isinstance(row, Mapping):
        raise UserError(f"expected an object, got {excerpt(row)}")
    if other := [key for key in _OTHER_MEDIA if row.get(key)]:
        raise UserError(f"{other[0]!r} is given, and only images can be shown: leave the row out")
    if row.get("tools"):
        raise UserError("'tools' is given, and calls of tools are not read: leave the row out")
    images = [*_listed(row, "images"), *_listed(row, "image")]
    beside, turns = len(images), []
    for number, message in enumerate(_messages(row)):
        try:
            turns.append(_turn(message, images))
        except UserError as error:
            raise UserError(f"message {number}: {error}") from error
    if 0 < beside < len(images):
        raise UserError("images are given beside the messages and in them: expected one of the two")
    return _placed(_in_turn(turns), images)


def _messages(row: Mapping[str, Any]) -> list[Any]:
    found = [key for key in _TURNS if row.get(key) is not None]
    if len(found) != 1:
        raise UserError(
            f"expected one of the keys 'messages', 'conversations', or 'prompt' with 'completion'; "
            f"found {found or sorted(map(str, row))}"
        )
    parts = [row[found[0]]] + ([row.get("completion")] if found[0] == "prompt" else [])
    if parts[-1] is None:  # a question without an answer
        parts.pop()
    for part in parts:
        if not isinstance(part, Sequence) or isinstance(part, str) or not part:
            raise UserError(f"{found[0]!r} should be a list of messages, got {excerpt(part)}")
    messages = [message for part in parts for message in part]
    if system := row.get("system"):
        messages.insert(0, {"role": "system", "content": system})
    return messages


def _turn(message: Any, images: list[Any]) -> Turn:
    """One message; images that it brings itself are added to ``images``."""
    if not isinstance(message, Mapping):
        raise UserError(f"expected an object, got {excerpt(message)}")
    if message.get("loss") is not None:
        raise UserError("'loss' is not read: data.train.turns says which turns are trained")
    if other := [key for key in _BESIDE_THE_TEXT if message.get(key)]:
        raise UserError(f"{other[0]!r} is given, and only the text is read: leave the row out")
    who, what = ("role", "content") if message.get("role") is not None else ("from", "value")
    if message.get(who) is None:
        raise UserError(
            "expected 'role' and 'content', or 'from' and 'value'; found "
            f"{sorted(str(key) for key in message)}"
        )
    role = _ROLES.get(message[who]) if isinstance(message[who], str) else None
    if role is None:
        raise UserError(f"{who!r} is {excerpt(message[who])}, expected one of {', '.join(_ROLES)}")
    text = _text(message.get(what), what, images)
    return Turn(role, text.strip() if role == "assistant" else text)


def _text(content: Any, key: str, images: list[Any]) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise UserError(f"{key!r} should be a text or a list of parts, got {excerpt(content)}")
    out = ""
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            out += part["text"]
        elif kind in ("image", "image_url"):
            keys = ("image", "image_url", "path", "url")
            own = next((part[key] for key in keys if part.get(key)), None)
            if own is not None:
                images.append(own.get("url", own) if isinstance(own, Mapping) else own)
            out += IMAGE_MARK
        else:
            raise UserError(
                f"a part of {key!r} is {excerpt(part)}, expected one of type 'text' with a 'text', "
                "or of type 'image'"
            )
    return out


def _listed(row: Mapping[str, Any], key: str) -> list[Any]:
    value = row.get(key)
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _in_turn(turns: list[Turn]) -> list[Turn]:
    """Checks that user and assistant alternate, after a system turn if there is one."""
    begun = 1 if turns and turns[0].role == "system" else 0
    for at, turn in enumerate(turns[begun:]):
        expected = ("user", "assistant")[at % 2]
        if turn.role != expected:
            raise UserError(
                f"message {at + begun} is the {turn.role}'s, expected the {expected}'s: user and "
                "assistant take turns, and a system message comes first"
            )
        if not turn.text.strip():
            raise UserError(f"message {at + begun}, the {turn.role}'s, is empty")
    if len(turns) == begun:
        raise UserError("there is no user's message")
    return turns


def _placed(turns: list[Turn], images: list[Any]) -> Conversation:
    marks = sum(turn.text.count(IMAGE_MARK) for turn in turns)
    if images and not marks:
        first = 1 if turns[0].role == "system" else 0
        turns[first] = Turn("user", IMAGE_MARK * len(images) + turns[first].text)
    elif marks != len(images):
        raise UserError(
            f"there are {len(images)} images and {marks} {IMAGE_MARK}: expected one for each "
            "image, or none, for images before the first question"
        )
    if wrong := [turn.role for turn in turns if turn.role != "user" and IMAGE_MARK in turn.text]:
        raise UserError(f"an image stands in the {wrong[0]}'s message, expected the user's")
    answer = turns.pop().text if turns[-1].role == "assistant" else ""
    return Conversation(tuple(turns), answer, tuple(images))
