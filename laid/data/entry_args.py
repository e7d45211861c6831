"""Settings of training, evaluation and prediction entries."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from laid.common.errors import UserError
from laid.evaluation.scoring import Scoring

log = logging.getLogger(__name__)

SIZES = (1, 2, 5, 10, 20, 50, 100, 150)
"""The paper's haystack sizes in testing."""
BUILT_ONLY = {
    "train": ("split", "min_size", "max_size"),
    "validate": ("split",),
    "test": ("split",),
}
"""By stage, the settings that say how entries are built; where a source gives entries, none."""
TRAIN_ENTRIES = 5000
PER_SIZE = 100
LIMITS = {
    "train": ("entries",),
    "validate": ("sizes", "per_size"),
    "test": ("sizes", "per_size"),
}
"""By stage, the settings that also limit a source: only where they are given for that source, since
a configuration gives them for entries that are built."""
BUILT = "built"
"""Among sources, stands for the entries that are built."""
_AT_LEAST_1 = (
    "batch_size", "pack_tokens", "global_batch_size", "eval_batch_size", "max_length",
    "max_answer_tokens",
)  # fmt: skip
MOST_WORKERS = 1024
"""Processes of one device: many more would take the machine down before the first step."""
MOST_ENTRIES = 10_000_000
"""More would take hours to draw and the machine's memory."""


@dataclass(frozen=True)
class TrainArgs:
    """Training entries."""

    source: str | None = None
    """Visual Haystacks JSON; conversations in JSON Lines or JSON; folder of a saved dataset; or hub
    dataset (hf:NAME or hf:NAME:SPLIT). None: built on the fly from the COCO annotations of
    `split`."""
    split: str = "train2017"
    """Annotations instances_SPLIT.json and images SPLIT/, where entries are built."""
    entries: int | None = None
    """How many are built, an even number: each question has a yes and a no; None: 5,000. Of a
    source, the first so many; None: all."""
    min_size: int = 2
    """Fewest images in a training haystack that is built."""
    max_size: int = 20
    """Most images in a training haystack that is built."""
    turns: Literal["last", "all"] = "last"
    """Which of the assistant's turns in a conversation are trained."""
    mixture: dict[str, float] | None = None
    """In place of a source, several with their weights, as {built: 0.8, my.jsonl: 0.2}; built are
    those from COCO. An epoch has each entry of the first once."""

    @property
    def count(self) -> int:
        """How many entries are built."""
        return TRAIN_ENTRIES if self.entries is None else self.entries

    def __post_init__(self) -> None:
        if self.entries is not None and not 1 <= self.entries <= MOST_ENTRIES:
            raise UserError(f"data.train.entries {self.entries}: expected 1 to {MOST_ENTRIES:,}")
        if self.mixture is not None:
            self._check_mixture(self.mixture)
        if self.source is None and not 1 <= self.min_size <= self.max_size:
            raise UserError(
                f"data.train.min_size {self.min_size}, max_size {self.max_size}: expected "
                "1 <= min_size <= max_size"
            )

    def _check_mixture(self, mixture: dict[str, float]) -> None:
        if self.source is not None:
            raise UserError("data.train: give a source or a mixture, and null for the other")
        wrong = [w for w in mixture.values() if not 0 < w < inf]
        if len(mixture) < 2 or wrong:
            raise UserError(
                f"data.train.mixture {mixture}: expected two sources or more, each with a weight "
                "above 0"
            )
        if BUILT not in mixture and self.entries is not None:
            raise UserError(
                f"data.train.entries {self.entries} is how many are built, and data.train.mixture "
                f"has no {BUILT!r}: leave it out, or set it null"
            )


@dataclass(frozen=True)
class EvaluationArgs:
    """Validation or test entries."""

    source: list[str] | None = None
    """Visual Haystacks JSONs, conversations in JSON Lines or JSON, folders of saved datasets, or
    hub datasets (hf:NAME or hf:NAME:SPLIT). None, or built among them: built on the fly from the
    COCO annotations of `split`."""
    split: str = "val2017"
    """Annotations instances_SPLIT.json and images SPLIT/, where entries are built."""
    sizes: list[int] | None = None
    """Haystack sizes. None: all of a source, or 1 2 5 10 20 50 100 150 where they are built."""
    per_size: int | None = None
    """How many of each size are built, an even number; None: 100. Of a source, the first so many
    of each size; None: all. With built among the sources, sizes and per_size are of these alone."""
    scoring: Scoring | dict[str, Scoring] | None = None
    """When an answer to a conversation is right: yes-no, exact, contains, numeric or choice; one
    for all sources, or by source. None: exact. Haystacks are yes-no."""

    def __post_init__(self) -> None:
        if self.per_size is not None and not 1 <= self.per_size <= MOST_ENTRIES:
            raise UserError(
                f"per_size {self.per_size}: expected 1 to {MOST_ENTRIES:,} entries of each size"
            )
        if self.sizes is not None and not self.sizes:
            raise UserError("sizes is empty: give haystack sizes such as [1, 10], or null")
        if self.source is not None and not self.source:
            raise UserError("source is empty: give files or data sets, or null to build entries")
        named = self.scoring if isinstance(self.scoring, dict) else {}
        if unknown := sorted(named.keys() - set(self.source or ())):
            raise UserError(f"scoring names {unknown}, and the sources are {self.source or 'none'}")

    def scoring_of(self, source: str) -> Scoring:
        """The rule for a source of conversations."""
        rule = self.scoring.get(source) if isinstance(self.scoring, dict) else self.scoring
        return rule or "exact"

    def scoring_unused(self, haystacks: Sequence[str]) -> str | None:
        """A source of haystacks that a rule is given for, or all are; None where there is none."""
        if self.scoring in (None, "yes-no"):
            return None
        if isinstance(rules := self.scoring, dict):
            return next((one for one in haystacks if rules.get(one, "yes-no") != "yes-no"), None)
        return haystacks[0] if set(haystacks) == set(self.source or {BUILT}) else None


@dataclass(frozen=True)
class PredictArgs:
    """What `laid predict` answers: a file of questions, or one question about some images."""

    source: str | None = None
    """Visual Haystacks JSON, or conversations, with or without answers."""
    images: str | None = None
    """Folder of images, shown in the order of their names (2.jpg before 10.jpg)."""
    question: str | None = None
    """The question about them."""


def check_numbers(settings: Mapping[str, Any]) -> None:
    """Those of the data module.

    Raises:
        UserError: one is out of its range.
    """
    for name in _AT_LEAST_1:
        if (value := settings[name]) is not None and value < 1:
            raise UserError(f"data.{name} {value}: expected at least 1")
    if not (gib := settings["feature_gib"]) > 0:
        raise UserError(f"data.feature_gib {gib}: expected more than 0")
    if not 0 <= (workers := settings["workers"]) <= MOST_WORKERS:
        raise UserError(f"data.workers {workers}: expected 0 to {MOST_WORKERS}")


def check_training(entries: int, step: int, train: TrainArgs, validate: EvaluationArgs) -> None:
    """The entries of an epoch; warns where training and validation show the same images.

    Raises:
        UserError: there are fewer than in an optimizer step.
    """
    if entries < step:
        raise UserError(
            f"there are {entries} training entries, fewer than data.global_batch_size {step}: too "
            "few for one optimizer step"
        )
    builds = train.source is None and BUILT in (train.mixture or {BUILT})
    if builds and BUILT in (validate.source or {BUILT}) and train.split == validate.split:
        log.warning("training and validation share the images of %s", train.split)
