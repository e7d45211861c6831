"""From answers to records."""

from collections.abc import Mapping, Sequence
from typing import Any

from laid.evaluation.answers import score_answer
from laid.evaluation.records import Record, needle_depth


def score(
    entries: Sequence[Mapping[str, Any]], answers: Sequence[str], tokens: Sequence[int]
) -> list[Record]:
    """One record an entry.

    Args:
        entries: haystack entries (``laid.data.entries``).
        answers: what the model said to each.
        tokens: length of each input in tokens.
    """
    records = []
    for entry, answer, length in zip(entries, answers, tokens, strict=True):
        scored = score_answer(answer, entry["answer"])
        records.append(
            Record(
                id=entry["id"],
                size=entry["size"],
                answer_gold=entry["answer"],
                answer=answer,
                correct=scored.correct,
                compliant=scored.compliant,
                depth=needle_depth(entry["needles"], entry["size"]),
                tokens=length,
                mode=entry["mode"],
            )
        )
    return records
