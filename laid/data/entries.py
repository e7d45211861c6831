"""What a haystack entry is, and its question in the words of Visual Haystacks."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from datasets import Dataset, Features, List, Value

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


@dataclass(frozen=True, kw_only=True)
class HaystackEntry:
    """A question about some images, and its answer.

    Attributes:
        id: role, haystack size and index, as in "test-20-000013".
        question: in words, without the prompt around it.
        answer: "yes" or "no"; "" where only the user knows it.
        anchor: the object that needles contain; "" where the question follows no template.
        target: the object that is asked about; "" likewise.
        mode: the template; "" for a foreign question about several needles.
        size: number of images.
        images: paths below the COCO root, in the order they are shown.
        needles: ascending positions in ``images`` of those that contain the anchor.
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

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "HaystackEntry":
        """The entry in a row of a dataset with the columns ``FEATURES``."""
        return cls(**{**row, "images": tuple(row["images"]), "needles": tuple(row["needles"])})


def dataset_of(entries: Iterable[HaystackEntry]) -> Dataset:
    """A dataset in memory with the columns ``FEATURES``, one row an entry."""
    rows = list(entries)
    columns = {name: [getattr(entry, name) for entry in rows] for name in FEATURES}
    return Dataset.from_dict(columns, features=FEATURES)


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
