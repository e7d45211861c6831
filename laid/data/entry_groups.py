"""Entries by their source and size."""

from collections import Counter
from collections.abc import Iterable, Sequence

from datasets import Dataset

from laid.common.errors import UserError
from laid.data.conversation_files import source_name

Available = dict[str, dict[int, int]]
"""By source, as ``by_source``, how many entries there are of each size."""


def by_source(entries: Dataset) -> dict[str, Dataset]:
    """The entries of each source of conversations, and under "" those of haystacks."""
    sources = _sources(entries)
    at: dict[str, list[int]] = {}
    for index, source in enumerate(sources):
        at.setdefault(source, []).append(index)
    return {source: entries.select(rows) for source, rows in at.items()}


def short_names(sources: Iterable[str], setting: str, haystacks: str = "") -> dict[str, str]:
    """What sources, as those of ``by_source``, are called in folders and logs.

    Args:
        setting: gives them, for the message.
        haystacks: what those of haystacks are called.

    Raises:
        UserError: two would be called the same.
    """
    names = {source: source_name(source) if source else haystacks for source in sources}
    for source, name in names.items():
        if twice := [other for other in names if names[other] == name and other != source]:
            raise UserError(
                f"{setting}: {source or 'haystacks'!r} and {twice[0] or 'haystacks'!r} would both "
                f"be reported as {name!r}: rename one, or give one after the other"
            )
    return names


def _sources(entries: Dataset) -> list[str]:
    if "source" not in entries.column_names:
        return [""] * len(entries)
    return [source or "" for source in entries["source"]]


def available_of(entries: Dataset) -> Available:
    """How many there are."""
    return {source: by_size(some) for source, some in by_source(entries).items()}


def by_size(entries: Dataset) -> dict[int, int]:
    """How many entries there are of each size."""
    return dict(sorted(Counter(entries["size"]).items()))


def chosen(
    entries: Dataset, sizes: Sequence[int] | None, per_size: int | None, setting: str
) -> Dataset:
    """The first ``per_size`` entries of each of ``sizes``, which ``setting`` gives, of each source
    of conversations and of all haystacks."""
    available = by_size(entries)
    if missing := sorted(set(sizes or ()) - available.keys()):
        raise UserError(
            f"{setting}: no source has haystacks of {missing} images; there are haystacks of "
            f"{list(available)}"
        )
    kept: list[int] = []
    count: Counter[tuple[str, int]] = Counter()
    for at, key in enumerate(zip(_sources(entries), entries["size"], strict=True)):
        count[key] += 1
        if (sizes is None or key[1] in sizes) and (per_size is None or count[key] <= per_size):
            kept.append(at)
    return entries.select(kept)
