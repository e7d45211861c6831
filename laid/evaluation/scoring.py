"""The scoring rule of Visual Haystacks, and what is scored of an entry."""

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from laid.common.errors import UserError

# Runs of letters: everything else (digits, underscores, punctuation, spaces) separates words.
_WORD = re.compile(r"[^\W\d_]+")
_ANSWERS = frozenset({"yes", "no"})


class Asked(Protocol):
    """What is scored of a haystack entry (``laid.data.entries.HaystackEntry``)."""

    @property
    def id(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def mode(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def needles(self) -> Sequence[int]: ...


class Answer(NamedTuple):
    """What a model said, special tokens removed, and whether it was cut at ``max_new_tokens``."""

    text: str
    truncated: bool


class Scored(NamedTuple):
    """What one answer is worth: `correct` counts for accuracy, `compliant` for compliance."""

    correct: bool
    compliant: bool


def score_answer(answer: str, gold: str) -> Scored:
    """Score a free-text answer to a yes-or-no question.

    The rule is that of Visual Haystacks (Wu et al., "Visual Haystacks", ICLR 2025): an answer is
    *correct* when the gold word is among its lower-cased words, and *compliant* when "yes" or "no"
    is among them at all. A correct answer is therefore always compliant.

    The rule looks for the gold word only, so "yes and no" counts as correct whichever is right,
    and "no, I can't say yes" too. We keep it so that numbers can be set beside published ones; the
    whole answers are in the records, for whoever wants a stricter rule.

    Words are runs of letters. Visual Haystacks splits with NLTK's tokenizer, which leaves "yes/no"
    or "no-one" in one piece where we see two words; for plain answers both give the same.

    Args:
        answer: what the model said, special tokens removed.
        gold: "yes" or "no", in any case.

    Raises:
        UserError: if `gold` is neither.
    """
    gold_word = gold.strip().lower()
    if gold_word not in _ANSWERS:
        raise UserError(
            f"the right answer is given as {gold!r}, expected 'yes' or 'no': only yes-or-no "
            "questions can be scored, so correct the entry (in Visual Haystacks files: "
            "conversations[1].value)"
        )
    words = set(_WORD.findall(answer.lower()))
    return Scored(correct=gold_word in words, compliant=not words.isdisjoint(_ANSWERS))


def needle_depth(positions: Sequence[int], size: int) -> float | None:
    """Where the needles lie: their mean position / (size - 1), 0 = first image, 1 = last.

    None for a haystack of one image, where first and last are the same.

    Args:
        positions: index of each needle image among the haystack's ``size`` images, from 0.

    Raises:
        UserError: there is no needle, or one outside the haystack.
    """
    if not positions or not all(0 <= position < size for position in positions):
        raise UserError(
            f"needles at {list(positions)} in a haystack of {size} images, expected at least one "
            f"position and each from 0 to {size - 1}"
        )
    return sum(positions) / (len(positions) * (size - 1)) if size > 1 else None
