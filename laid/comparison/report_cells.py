"""How a report writes its numbers down."""

import math
from collections.abc import Sequence

from laid.common.tables import NONE, Cell, Value, decimal
from laid.comparison.paired_tests import PairedTest
from laid.comparison.study import Bounded, Measured
from laid.evaluation.accuracy_table import interval_text, percent
from laid.evaluation.wilson import Interval


def listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes)) or "no"


def arrow(test: PairedTest | None) -> str:
    """Up or down where the difference is significant."""
    return ("↑" if test.difference > 0 else "↓") if test and test.significant else ""


def accuracy_cell(measured: Measured, after: str = "") -> Cell:
    return Cell(f"{percent(measured.value)}{after}", _percents(measured))


def interval_cell(measured: Measured | None) -> str:
    return interval_text(measured.interval) if measured and measured.interval else NONE


def gain_cell(
    gain: Measured | None, test: PairedTest | None = None, brackets: bool = False
) -> Cell | str:
    """A relative change in percent, with an arrow where the test agrees."""
    if gain is None or not math.isfinite(gain.value):
        return NONE
    after = arrow(test) if test and gain.value * test.difference > 0 else ""
    spread = _brackets(gain.interval) if brackets else ""
    return Cell(f"{decimal(100 * gain.value, '+')}%{after}{spread}", _percents(gain))


def points_cell(change: Measured) -> Cell:
    """A change in points of accuracy, with its interval."""
    points = decimal(100 * change.value, "+")
    return Cell(f"{points}{_brackets(change.interval)}", _percents(change))


def decay_cell(rate: Measured | None) -> Cell | str:
    """Points of accuracy lost, with the interval."""
    return Cell(points_cell(rate).text.replace("+", ""), _percents(rate)) if rate else NONE


def p_cell(p: float | None) -> Cell | str:
    return NONE if p is None else Cell("<0.001" if p < 0.001 else f"{p:.3f}", p)


PAIRED_HEADER = ("n", "difference", "ahead", "behind", "p", "p Holm")


def paired_cells(test: PairedTest) -> list[Cell | str]:
    """The cells of ``PAIRED_HEADER``."""
    n, ahead, behind = (Cell(str(of), of) for of in (test.n, test.ahead, test.behind))
    points = points_cell(Measured(test.difference, test.interval))
    return [n, points, ahead, behind, p_cell(test.p), p_cell(test.adjusted)]


def bounded_cell(found: Bounded | None, sizes: Sequence[int] = (), digits: int = 2) -> Cell | str:
    """A number that may be known by bounds: ">150" of windows, "≥2.75" of ratios.

    Args:
        found: None if unknown.
        sizes: of a window, the tested sizes; none for a ratio.
        digits: after the point; numbers below ten have at least one.
    """
    if found is None:
        return NONE
    low, high, bounds = found
    first, last = (sizes[0], sizes[-1]) if sizes else (0, math.inf)

    def end(number: float) -> str:
        if sizes and number >= last:  # a crossing lies before the last size
            return f">{last}"
        if math.isinf(number):
            return "∞"
        return "0" if not number else f"{number:.{digits if number >= 10 else max(digits, 1)}f}"

    if low == high or (sizes and math.isinf(high)):
        shown = end(low)
    elif sizes:
        shown = f"<{first}"
    elif math.isinf(high):
        shown = f"≥{end(low)}" if low else NONE
    else:
        shown = f"≤{end(high)}"
    known = low if low == high else math.nan
    if bounds is None:
        return Cell(shown, known)
    ends = list(dict.fromkeys(map(end, bounds)))
    return Cell(f"{shown} [{' to '.join(ends)}]", (known, *bounds))


def _percents(measured: Measured) -> Value:
    value, low, high = (100 * of for of in (measured.value, *(measured.interval or (0, 0))))
    return (value, low, high) if measured.interval else value


def _brackets(bounds: Interval | None) -> str:
    return "" if bounds is None else " [{} to {}]".format(*(decimal(100 * b, "+") for b in bounds))
