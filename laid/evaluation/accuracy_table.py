"""Accuracy by haystack size as a table for the terminal and for reports."""

from collections.abc import Callable, Sequence

from laid.common.tables import NONE, WIDTH, Table, text
from laid.evaluation.results import SizeCell, Summary
from laid.evaluation.wilson import Interval

_LONGEST = "  compliant"  # of the labels below a name
_CELL, _MEAN = 9, 5  # characters of "91.5–99.0" and "100.0"; two spaces lie between columns


def format_table(summaries: Sequence[Summary]) -> str:
    """One block of rows a model, one column a haystack size; all shares in percent.

    The first row of a block is the accuracy, with the means over short and long haystacks at its
    end; below it the 95% Wilson interval, the number of entries (of those that there are, unless
    all were asked), the compliance (share of answers with a yes or no in them) unless it is 100
    everywhere, and the share of truncated answers unless it is 0. A size at which a model was not
    tested reads "–".

    Lines are at most `WIDTH` characters: more than eight or so sizes are split over several tables,
    and a longer model name is a line of its own.

    Args:
        summaries: one a model, in row order; at least one.
    """
    sizes = sorted({size for summary in summaries for size in summary.by_size})
    # Eight sizes and the means leave 120 - 8 * 11 - 2 * 7 = 18 characters for the names.
    per_table = (WIDTH - 18 - 2 * (_MEAN + 2)) // (_CELL + 2)
    parts = [sizes[at : at + per_table] for at in range(0, len(sizes), per_table)]
    blocks = [text(_table(summaries, part, means=part is parts[-1])) for part in parts]
    if any(len(summary.by_size) < len(sizes) for summary in summaries):
        blocks.append("short and long are means over the sizes that each model was tested at")
    return "\n\n".join(blocks)


def _table(summaries: Sequence[Summary], sizes: list[int], means: bool) -> Table:
    room = WIDTH - (_CELL + 2) * len(sizes) - 2 * (_MEAN + 2)
    rows: list[list[str]] = []
    for summary in summaries:
        cells = [summary.by_size.get(size) for size in sizes]
        label = summary.name
        if rows:
            rows.append([""])
        if len(label) > room:
            rows.append([label])
            label = ""
        tail = [percent(mean) for mean in (summary.short, summary.long) if means]
        rows.append([label, *_row(cells, lambda cell: percent(cell.accuracy)), *tail])
        rows.append(["  95%", *_row(cells, lambda cell: interval_text(cell.interval))])
        rows.append(["  n", *_row(cells, asked_text)])
        if any(cell.compliance < 1 for cell in summary.by_size.values()):
            rows.append(["  compliant", *_row(cells, lambda cell: percent(cell.compliance))])
        if any(cell.truncated > 0 for cell in summary.by_size.values()):
            rows.append(["  truncated", *_row(cells, lambda cell: percent(cell.truncated))])
    ends = ["short", "long"] if means else []
    widths = [len(_LONGEST), *[_CELL] * len(sizes), *[_MEAN] * len(ends)]
    header = ["images", *map(str, sizes), *ends]
    return Table("accuracy", "Accuracy by haystack size", header, rows, widths=widths)


def _row(cells: Sequence[SizeCell | None], write: Callable[[SizeCell], str]) -> list[str]:
    return [NONE if cell is None else write(cell) for cell in cells]


def asked_text(cell: SizeCell) -> str:
    """The number of entries: "100", or "100/120" where there are more than were asked."""
    return f"{cell.n}/{cell.available}" if cell.n < cell.available else str(cell.n)


def percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f}"


def interval_text(interval: Interval) -> str:
    """In percent; "100" and "0" keep it within nine characters."""
    ends = [{0.0: "0", 1.0: "100"}.get(bound, f"{100 * bound:.1f}") for bound in interval]
    return "–".join(ends)
