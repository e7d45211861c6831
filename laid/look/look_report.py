"""What ``laid look`` writes down."""

import re
from dataclasses import dataclass
from itertools import count

from laid.data.entries import HaystackEntry
from laid.vlm.processor import IMAGE_MARK


@dataclass(frozen=True)
class ModelLook:
    """Where one model looks, and what it answers; shares as in ``AttentionShares``.

    Attributes:
        name, what: as given.
        answer: its greedy answer.
        sharp: of each image, over the sharpest heads.
        mean: of each image, over all layers, heads and rows.
        layers: by layer, of each image, over heads and rows.
        sharp_heads: layer and head.
    """

    name: str
    what: str
    answer: str
    sharp: list[float]
    mean: list[float]
    layers: list[list[float]]
    sharp_heads: list[list[int]]


@dataclass(frozen=True)
class LookReport:
    """One haystack and several models; the content of look.json.

    Attributes:
        question: of a conversation what the user says last, with ``[image 1]`` where one stands.
        earlier: role and text of the turns before it.
        expected: the right answer; empty where it is not known.
        needles: places of the images that the question is about, from 0; none where not known.
        heads: how many sharpest heads were asked for.
    """

    command: str
    laid_version: str
    created: str
    entry: str
    question: str
    earlier: list[list[str]]
    expected: str
    images: list[str]
    needles: list[int]
    heads: int
    models: list[ModelLook]
    notes: list[str]


def turns_of(entry: HaystackEntry) -> list[list[str]]:
    """Role and text of all turns; of a conversation with ``[image 1]`` where an image stands."""
    numbers = count(1)
    return [
        [role, re.sub(IMAGE_MARK, lambda _: f"[image {next(numbers)}]", text).strip()]
        for role, text in entry.turns or (("user", entry.question),)
    ]
