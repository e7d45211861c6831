"""When an answer is right: the rule of Visual Haystacks, and four for free answers
(docs/evaluation.md defines each); and what is scored of an entry."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Literal, NamedTuple, Protocol, get_args

from laid.common.errors import UserError

# Runs of letters: everything else (digits, underscores, punctuation, spaces) separates words.
_WORD = re.compile(r"[^\W\d_]+")
_ANSWERS = frozenset({"yes", "no"})

Scoring = Literal["yes-no", "exact", "contains", "numeric", "choice"]
SCORINGS: tuple[Scoring, ...] = get_args(Scoring)

# Signs that are part of a number: a decimal point or a comma within it, a minus before it.
_IN_NUMBERS = re.compile(r"(?<=\d)[.,](?=\d)|(?<![\w.,/-])-(?=\.?\d)")
_ARTICLES = frozenset({"a", "an", "the"})
# Written without spaces: each character is a word.
_UNSPACED = re.compile(
    "([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"
)
_NUMBER = re.compile(r"(?<![\w.,/-])-?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?![^\W_])")
_NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_LETTER = re.compile(
    # At the beginning, alone on its line or with a sign; in brackets or stars; after a word for it.
    r"\A\s*[(\[*]*([A-Za-z])(?:[)\].:,*]+(?!\w)|\s*\Z|[^\S\n]*\n)"
    r"|[(\[*]([A-Z])[)\]*]"
    r"|(?i:\b(?:answer|option|choice)(?:\s+is)?)[\s:*]+([A-Z])\b(?!['’])(?!(?<=[AI])\s+[a-z])"
)


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
    @property
    def source(self) -> str: ...
    @property
    def scoring(self) -> str: ...


class Answer(NamedTuple):
    """What a model said, special tokens removed, and whether it was cut at ``max_new_tokens``."""

    text: str
    truncated: bool


class Scored(NamedTuple):
    """What one answer is worth: `correct` counts for accuracy, `compliant` for compliance."""

    correct: bool
    compliant: bool


def score_answer(answer: str, gold: str, scoring: str = "yes-no") -> Scored:
    """Score an answer by one of ``SCORINGS``. What is correct is always compliant.

    Args:
        answer: what the model said, special tokens removed.
        gold: the right answer.
        scoring: the rule.

    Raises:
        UserError: there is no such rule, or `gold` can't be the right answer by it.
    """
    if scoring not in _RULES:
        raise UserError(f"scoring is {scoring!r}, expected one of {', '.join(SCORINGS)}")
    return _RULES[scoring](answer, gold)


def _yes_no(answer: str, gold: str) -> Scored:
    """The rule of Visual Haystacks (Wu et al., "Visual Haystacks", ICLR 2025).

    It looks for the gold word only, so "yes and no" counts as correct whichever is right, and "no,
    I can't say yes" too. We keep it so that numbers can be set beside published ones; the whole
    answers are in the records, for whoever wants a stricter rule.

    Visual Haystacks splits words with NLTK's tokenizer, which leaves "yes/no" or "no-one" in one
    piece where we see two words; for plain answers both give the same.
    """
    gold_word = gold.strip().lower()
    if gold_word not in _ANSWERS:
        raise UserError(
            f"the right answer is given as {gold!r}, expected 'yes' or 'no': correct the entry (in "
            "Visual Haystacks files: conversations[1].value), or choose another data.test.scoring"
        )
    words = set(_WORD.findall(answer.lower()))
    return Scored(correct=gold_word in words, compliant=not words.isdisjoint(_ANSWERS))


def words_of(text: str) -> list[str]:
    """Normalised words: Unicode NFKC, case folded, every sign but letters, digits and those within
    numbers taken for a space, without "a", "an" and "the" (as SQuAD does, Rajpurkar et al. 2016);
    each Chinese or Japanese character is a word. An answer of articles alone keeps them."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-")
    within = {found.start() for found in _IN_NUMBERS.finditer(text)}
    plain = "".join(
        c if at in within or unicodedata.category(c)[0] in "LMN" else " "
        for at, c in enumerate(text)
    )
    words = _UNSPACED.sub(r" \1 ", plain).split()
    return [word for word in words if word not in _ARTICLES] or words


def _exact(answer: str, gold: str) -> Scored:
    right, words = _gold_words(gold), words_of(answer)
    return Scored(words == right, bool(words))


def _contains(answer: str, gold: str) -> Scored:
    right, words = _gold_words(gold), words_of(answer)
    places = range(len(words) - len(right) + 1)
    found = any(words[at : at + len(right)] == right for at in places)
    return Scored(found, bool(words))


def _gold_words(gold: str) -> list[str]:
    if not (words := words_of(gold)):
        raise UserError(f"the right answer is given as {gold!r}, expected a word or a number")
    return words


def _numeric(answer: str, gold: str) -> Scored:
    """The last number of the answer counts: "2 + 3 = 5"."""
    if len(right := _numbers(gold)) != 1:
        raise UserError(
            f"the right answer is given as {gold!r}, expected one number such as 12, -3.5 or 1,200"
        )
    found = _numbers(answer)
    return Scored(found[-1:] == right, bool(found))


def _numbers(text: str) -> list[Decimal]:
    """Numbers in digits, in order; where there are none, the words zero to ten."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-")
    found = (part[0].replace(",", "") for part in _NUMBER.finditer(text))
    if numbers := [Decimal(part) for part in found if part.strip("-")]:
        return numbers
    words = _WORD.findall(text)
    return [Decimal(_NUMERALS.index(word)) for word in words if word in _NUMERALS]


def _choice(answer: str, gold: str) -> Scored:
    """The first letter that is given as a choice counts."""
    right = re.fullmatch(r"[(\[]?([A-Za-z])[)\].:]*", gold.strip())
    if not right:
        raise UserError(
            f"the right answer is given as {gold!r}, expected the letter of a choice such as B"
        )
    found = _LETTER.search(answer)
    letter = next(filter(None, found.groups())).upper() if found else None
    return Scored(letter == right[1].upper(), letter is not None)


_RULES: dict[str, Callable[[str, str], Scored]] = {
    "yes-no": _yes_no,
    "exact": _exact,
    "contains": _contains,
    "numeric": _numeric,
    "choice": _choice,
}


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
