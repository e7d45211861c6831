"""Questions and answers are data: what a model would not read as text in them is refused, or taken
off."""

import re
import unicodedata
from collections.abc import Callable, Collection

from datasets import Dataset

from laid.common.errors import UserError
from laid.common.printable import HALF

_MARKS = ("<image>", "<video>")
_LEADING = re.compile(r"(?:\s*<image>)+\s*")


def without_image_marks(question: str, images: int) -> str:
    """A question without the ``<image>`` that LLaVA's format puts before it for each image.

    It stays as it is if there are not as many of them as images: ``QuestionCheck`` refuses it.
    """
    marks = _LEADING.match(question)
    if marks and marks[0].count("<image>") == images:
        return question[marks.end() :]
    return question


def most_tokens(text: str) -> int:
    """A bound that is found without a tokenizer: none here makes more tokens of a text than it has
    bytes, after NFC for some, which makes more bytes of a few characters."""
    return max(len(text.encode()), len(unicodedata.normalize("NFC", text).encode()))


class QuestionCheck:
    """Refuses questions with marks for images, or with text that a tokenizer reads as one of its
    control tokens: such a question would end the user's turn, or ask for one more image.

    Args:
        tokens: the control tokens, as text.
        count: how many tokens a text has.
        most: the longest answer to train, in tokens.
    """

    def __init__(
        self, tokens: Collection[str] = (), count: Callable[[str], int] = len, most: int = 512
    ) -> None:
        self._count, self._most = count, most
        longest_first = sorted({*tokens, *_MARKS}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def text(self, text: str, source: str) -> None:
        """Check one text.

        Raises:
            UserError: names ``source`` and the token.
        """
        if half := HALF.search(text):
            raise UserError(
                f"{source} holds {half[0]!a}, half of a surrogate pair, which is no character. "
                "Remove it."
            )
        if found := self._pattern.search(text):
            what = "is a mark for an image; images are shown before the question, without marks"
            if found[0] not in _MARKS:
                what = "is a control token of the tokenizer and cannot be read as text"
            raise UserError(f"{source} holds {found[0]!r}, which {what}. Remove it.")

    def length(self, answer: str) -> None:
        """Check an answer that is trained.

        Raises:
            UserError: it has too many tokens. It is never cut: a cut would teach to stop there.
        """
        if most_tokens(answer) > self._most and (found := self._count(answer)) > self._most:
            raise UserError(
                f"an answer has {found} tokens, more than data.max_answer_tokens {self._most}: "
                "raise it, or leave the row out"
            )

    def entries(self, entries: Dataset, source: str) -> None:
        """Check the questions of all entries.

        Raises:
            UserError: names ``source``, the entry and the token.
        """
        for number, question in enumerate(entries["question"]):
            self.text(question, f"{source}, entry {number}: the question")
