"""From answers to records."""

from collections.abc import Sequence
from typing import Protocol

from laid.evaluation.answers import score_answer
from laid.evaluation.records import Record, needle_depth


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


def score(entries: Sequence[Asked], answers: Sequence[str], tokens: Sequence[int]) -> list[Record]:
    """One record an entry.

    Args:
        entries: what was asked.
        answers: what the model said to each.
        tokens: length of each input in tokens.
    """
    records = []
    for entry, answer, length in zip(entries, answers, tokens, strict=True):
        scored = score_answer(answer, entry.answer)
        records.append(
            Record(
                id=entry.id,
                size=entry.size,
                answer_gold=entry.answer,
                answer=answer,
                correct=scored.correct,
                compliant=scored.compliant,
                depth=needle_depth(entry.needles, entry.size),
                tokens=length,
                mode=entry.mode,
            )
        )
    return records
