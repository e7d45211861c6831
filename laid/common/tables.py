"""One table in five forms: Markdown, HTML, CSV, LaTeX and plain text."""

import csv
import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from laid.common.printable import for_markdown, for_spreadsheet, one_line

WIDTH = 120
"""Characters of a line on the terminal."""

NONE = "–"
"""In place of a number that is not known."""

Value = float | int | str | tuple[float, float, float] | None

_LATEX = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"–": "--", "−": "$-$"}
_LATEX |= {"≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$", "∞": r"$\infty$"}
_LATEX |= {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "\\": r"\textbackslash{}"}
_LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}"}


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what is read.
        value: what the CSV has in its place: a number, or a number with its interval (lower,
            upper), which makes three columns. None: the text.
        mark: bold for the best of a column, underline for the second.
    """

    text: str
    value: Value = None
    mark: Literal["", "bold", "underline"] = ""


@dataclass(frozen=True)
class Table:
    """A table with a first column of names, a title above and notes beneath.

    Attributes:
        name: of its files, without ending.
        rows: as many cells each; a str is a cell without a value. In plain text a row may have
            fewer, and one of a single cell does not widen the first column.
        widths: the least width of each column in plain text, in characters.
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    notes: Sequence[str] = ()
    widths: Sequence[int] = ()

    def cells(self) -> list[list[Cell]]:
        return [[Cell(c) if isinstance(c, str) else c for c in row] for row in self.rows]


def markdown(table: Table) -> str:
    """Headline, table and notes; bold is ``**``, underlined ``<u>``."""
    marks = {"": ("", ""), "bold": ("**", "**"), "underline": ("<u>", "</u>")}

    rows = [
        [for_markdown(word) for word in table.header],
        ["---", *["---:"] * (len(table.header) - 1)],
    ]
    rows += [[for_markdown(c.text).join(marks[c.mark]) for c in row] for row in table.cells()]
    lines = [f"## {for_markdown(table.title)}", "", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join([*lines, *(f"\n{for_markdown(note)}" for note in table.notes)]) + "\n"


def html(table: Table) -> str:
    """A heading, a ``table`` of class ``sortable`` and notes; a number's value is in its cell's
    ``data-value``."""
    marks = {"": ("", ""), "bold": ("<b>", "</b>"), "underline": ("<u>", "</u>")}

    def made(cell: Cell) -> str:
        shown = escape(one_line(cell.text)).join(marks[cell.mark])
        return f'<td data-value="{escape(_values(cell)[0])}">{shown}</td>'

    rows = ["".join(map(made, row)).join(("<tr>", "</tr>")) for row in table.cells()]
    header = "".join(f"<th>{escape(one_line(word))}</th>" for word in table.header)
    lines = [
        f'<h2 id="{table.name}">{escape(one_line(table.title))}</h2>',
        '<div class="wide"><table class="sortable">',
        f"<thead><tr>{header}</tr></thead>",
        *("<tbody>", *rows, "</tbody></table></div>"),
        *(f"<p>{escape(one_line(note))}</p>" for note in table.notes),
    ]
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    """A ``table`` float with ``booktabs`` lines."""
    marks = {"": ("", ""), "bold": (r"\textbf{", "}"), "underline": (r"\underline{", "}")}

    def line(cells: Sequence[str]) -> str:
        return "    " + " & ".join(cells) + r" \\"

    rows = [line([_tex(c.text).join(marks[c.mark]) for c in row]) for row in table.cells()]
    caption = " ".join([table.title.rstrip(".") + ".", *table.notes])
    lines = [
        "% \\usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{_tex(caption)}}}",
        f"  \\label{{tab:{table.name.replace('_', '-')}}}",
        f"  \\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"    \toprule",
        line([_tex(word) for word in table.header]),
        r"    \midrule",
        *rows,
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def comma_separated(table: Table) -> str:
    """A header and rows, values rather than texts, nothing rounded beyond six digits.

    A column with intervals is three: NAME, NAME_low and NAME_high. An unknown is empty.
    """
    rows = [[_values(cell) for cell in row] for row in table.cells()]
    widths = [max([1, *(len(row[at]) for row in rows)]) for at in range(len(table.header))]
    words = [for_spreadsheet(word) for word in table.header]
    header = [[word, f"{word}_low", f"{word}_high"] for word in words]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in [header, *rows]:
        padded = ([*cell, "", ""][:width] for cell, width in zip(row, widths, strict=True))
        writer.writerow([value for cell in padded for value in cell])
    return out.getvalue()


def text(table: Table) -> str:
    """Columns for the terminal: names to the left, all else to the right."""
    columns = len(table.header)
    cells = [[one_line(cell.text) for cell in row] for row in table.cells()]
    rows = [[one_line(word) for word in table.header], *cells]
    widths = list(table.widths or [0] * columns)
    for row in rows:
        if len(row) > 1:
            widths[: len(row)] = [max(w, len(word)) for w, word in zip(widths, row, strict=False)]

    def line(row: Sequence[str]) -> str:
        first, *others = row
        padded = [word.rjust(width) for word, width in zip(others, widths[1:], strict=False)]
        return "  ".join([first.ljust(widths[0]), *padded]).rstrip()

    ruler = "─" * (sum(widths) + 2 * (columns - 1))
    notes = [textwrap.fill(one_line(note), WIDTH) for note in table.notes]
    return "\n".join([line(rows[0]), ruler, *map(line, rows[1:]), *notes])


def decimal(number: float, sign: Literal["", "+"] = "") -> str:
    """With one digit after the point, and a minus sign; 0 has no sign."""
    shown = f"{number:{sign}.1f}"
    return shown.replace("-", "−") if float(shown) else "0.0"


def _tex(words: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in one_line(words))


def _values(cell: Cell) -> list[str]:
    value = cell.text if cell.value is None else cell.value
    return [_number(part) for part in (value if isinstance(value, tuple) else (value,))]


def _number(value: float | int | str) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    if isinstance(value, str):
        return "" if value == NONE else for_spreadsheet(value)
    return str(value)
