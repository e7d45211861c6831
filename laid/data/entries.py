"""What a haystack entry is, and its question in the words of Visual Haystacks."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from datasets import Dataset, Features, List, Value

from laid.common.errors import UserError
from laid.common.printable import HALF

Mode = Literal["single", "all", "any"]
MODES: tuple[Mode, ...] = ("single", "all", "any")

# The columns of a dataset of entries: the fields of `HaystackEntry`.
FEATURES = Features(
    {
        "id": Value("string"),
        "question": Value("string"),
        "answer": Value("string"),
        "anchor": Value("string"),
        "target": Value("string"),
        "mode": Value("string"),
        "size": Value("int32"),
        "images": List(Value("string")),
        "needles": List(Value("int32")),
    }
)

CONVERSATION_FEATURES = Features(
    {
        **FEATURES,
        "turns": List({"role": Value("string"), "text": Value("string")}),
        "source": Value("string"),
        "scoring": Value("string"),
    }
)
"""The columns of a dataset of conversations; in a mixture, a haystack has none of these."""


class Turn(NamedTuple):
    """What a system, user or assistant says, with ``<image>`` where an image stands."""

    role: str
    text: str


@dataclass(frozen=True, kw_only=True)
class HaystackEntry:
    """A question about some images, and its answer.

    Attributes:
        id: role, haystack size and index, as in "test-20-000013".
        question: in words, without the prompt around it.
        answer: "yes" or "no", of a conversation any text; "" where only the user knows it.
        anchor: the object that needles contain; "" where the question follows no template.
        target: the object that is asked about; "" likewise.
        mode: the template; "" for a foreign question about several needles.
        size: number of images.
        images: names (``laid.data.image_names``), in the order they are shown.
        needles: ascending positions in ``images`` of those that contain the anchor; of a
            conversation unknown.
        turns: of a conversation, all that is said before ``answer``, images in their places;
            ``question`` repeats the words of the last turn. Of a haystack none: images come first.
        source: of a conversation, where it was read.
        scoring: how an answer is scored (``laid.evaluation.scoring``).
    """

    id: str
    question: str
    answer: str = ""
    anchor: str = ""
    target: str = ""
    mode: Mode | Literal[""] = ""
    size: int
    images: tuple[str, ...]
    needles: tuple[int, ...] = ()
    turns: tuple[Turn, ...] = ()
    source: str = ""
    scoring: str = "yes-no"

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "HaystackEntry":
        """The entry in a row of a dataset with the columns ``FEATURES`` or
        ``CONVERSATION_FEATURES``."""
        given = {name: value for name, value in row.items() if value is not None}
        turns = tuple(Turn(**turn) for turn in given.get("turns", ()))
        images, needles = (tuple(given.get(name, ())) for name in ("images", "needles"))
        return cls(**{**given, "images": images, "needles": needles, "turns": turns})


def dataset_of(entries: Iterable[HaystackEntry], features: Features = FEATURES) -> Dataset:
    """A dataset in memory with the columns ``features``, one row an entry.

    Raises:
        UserError: a text or a name can't be written as UTF-8; names the entry.
    """
    rows = list(entries)
    columns = {name: [getattr(entry, name) for entry in rows] for name in features}
    if "turns" in columns:
        columns["turns"] = [[turn._asdict() for turn in turns] for turns in columns["turns"]]
    try:
        return Dataset.from_dict(columns, features=features)
    except UnicodeEncodeError as error:
        entry = next(one.id for one in rows if HALF.search(f"{one.id}{one.question}{one.images}"))
        raise UserError(f"entry {entry}: a text or a file name is not UTF-8 ({error})") from error


def shown_images(entries: Dataset) -> set[str]:
    """The names of all images that entries show."""
    return {name for names in entries["images"] for name in names}


_TEMPLATES: dict[Mode, str] = {
    "single": "For the image with {anchor}, is there {target}?",
    "all": "For all images with {anchor}, do all of them contain {target}?",
    "any": "For all images with {anchor}, do any of them contain {target}?",
}
_PATTERNS = {
    mode: re.compile(
        re.escape(template)
        .replace(r"\{anchor\}", r"an? (?P<anchor>.+)")
        .replace(r"\{target\}", r"an? (?P<target>.+)"),
        re.IGNORECASE,
    )
    for mode, template in _TEMPLATES.items()
}


def ask(anchor: str, target: str, mode: Mode) -> str:
    """The question whether the images with ``anchor`` hold ``target``, one, all or any of them."""
    return _TEMPLATES[mode].format(anchor=_with_article(anchor), target=_with_article(target))


def parse_question(question: str) -> tuple[str, str, Mode | Literal[""]]:
    """The anchor, target and mode of a question that follows a template; else three empty texts."""
    for mode, pattern in _PATTERNS.items():
        found = pattern.fullmatch(question.strip())
        if found:
            return found["anchor"], found["target"], mode
    return "", "", ""


def entry_id(role: str, size: int, index: int) -> str:
    """The ``id`` of the entry number ``index`` among those of its role and size."""
    return f"{role}-{size}-{index:06d}"


def _with_article(noun: str) -> str:
    # By the first letter: right for every name in COCO, none of which begins like "hour" or "unit".
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
