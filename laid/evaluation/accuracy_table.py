"""Accuracy by haystack size as a table for the terminal and for reports."""

from collections.abc import Iterator, Sequence
from typing import Any

from laid.common.errors import UserError
from laid.common.tables import WIDTH

_MISSING = "–"
_COLUMN = 11  # "91.5–99.0" and two spaces
_MEAN = 7
_LABELS = ("  95%", "  n", "  compliant")
_GAP = 2


def format_table(results: Sequence[dict[str, Any]]) -> str:
    """One block of rows a model, one column a haystack size; all shares in percent.

    The first row of a block is the accuracy, with the means over short and long haystacks at its
    end; beneath stand the 95% Wilson interval, the number of entries and, unless it is 100
    everywhere, the compliance (share of answers with a yes or no in them). A size at which a model
    was not tested reads "–".

    Lines are at most `WIDTH` characters, for which more than eight or so sizes are parted into
    several tables (a longer model name stands on a line of its own, and isn't cut).

    Args:
        results: what `laid.evaluation.results.read_results` gives, one a model, in row order.

    Raises:
        UserError: if there are none.
    """
    if not results:
        raise UserError("no results: expected at least one model's results to tabulate")
    sizes = sorted({int(size) for result in results for size in result["by_size"]})
    # Eight sizes and the means leave 120 - 8 * 11 - 2 * 7 = 18 characters for the names.
    per_table = (WIDTH - 18 - 2 * _MEAN) // _COLUMN
    parts = [sizes[at : at + per_table] for at in range(0, len(sizes), per_table)]
    blocks = [
        "\n".join(line.rstrip() for line in _lines(results, part, means=part is parts[-1]))
        for part in parts
    ]
    if any(len(result["by_size"]) < len(sizes) for result in results):
        blocks.append("short and long are means over the sizes that each model was tested at")
    return "\n\n".join(blocks)


def _lines(results: Sequence[dict[str, Any]], sizes: list[int], means: bool) -> Iterator[str]:
    room = WIDTH - _COLUMN * len(sizes) - 2 * _MEAN
    # No wider than it must be: a wide first column parts the numbers from their label.
    fitting = [len(r["name"]) for r in results if len(r["name"]) <= room]
    first = max([len("images"), *map(len, _LABELS), *fitting])

    def row(label: str, cells: Sequence[str], tail: Sequence[str] = ()) -> str:
        return (
            label.ljust(first)
            + "".join(cell.rjust(_COLUMN) for cell in cells)
            + "".join(cell.rjust(_MEAN) for cell in tail if means)
        )

    yield row("images", [str(size) for size in sizes], ["short", "long"])
    yield "─" * len(row("", [""] * len(sizes), ["", ""]))
    for index, result in enumerate(results):
        if index:
            yield ""
        cells = [result["by_size"].get(str(size)) for size in sizes]
        label = result["name"]
        if len(label) > first:
            yield label
            label = ""
        yield row(
            label,
            [_percent(cell and cell["accuracy"]) for cell in cells],
            [_percent(result["short"]), _percent(result["long"])],
        )
        yield row(_LABELS[0], [_interval(cell) for cell in cells])
        yield row(_LABELS[1], [str(cell["n"]) if cell else _MISSING for cell in cells])
        if any(cell["compliance"] < 1 for cell in result["by_size"].values()):
            yield row(_LABELS[2], [_percent(cell and cell["compliance"]) for cell in cells])


def _percent(share: float | None) -> str:
    return _MISSING if share is None else f"{100 * share:.1f}"


def _interval(cell: dict[str, Any] | None) -> str:
    return _MISSING if cell is None else "–".join(_bound(bound) for bound in cell["interval"])


def _bound(share: float) -> str:
    # "100" and "0" keep every interval within its column.
    return {0.0: "0", 1.0: "100"}.get(share, f"{100 * share:.1f}")
