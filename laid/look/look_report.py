"""What ``laid look`` writes down."""

from dataclasses import dataclass


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
        expected: the right answer; empty where it is not known.
        needles: places of the images that the question is about, from 0; none where not known.
        heads: how many sharpest heads were asked for.
    """

    command: str
    laid_version: str
    created: str
    entry: str
    question: str
    expected: str
    images: list[str]
    needles: list[int]
    heads: int
    models: list[ModelLook]
    notes: list[str]
