"""One table, four forms that say the same."""

import csv
import io
import math

import pytest

from laid.common.tables import Cell, Table, comma_separated, latex, markdown, text

TABLE = Table(
    name="accuracy",
    title="Accuracy",
    header=["method", "1", "gain"],
    rows=[
        ["a_b", Cell("97.0↑", (97.0, 91.5, 99.0), "bold"), Cell("+2.5%", 2.512345678)],
        ["c", Cell("50.0", (50.0, 40.4, 59.6), "underline"), "–"],
        ["d", Cell(">150", (math.nan, 1.0, math.inf)), Cell("<0.001", 1e-9)],
    ],
    notes=["5% of x_i < y & so on."],
)


def test_markdown_marks_the_best_and_the_second():
    lines = markdown(TABLE).splitlines()
    assert lines[0] == "## Accuracy"
    assert lines[2] == "| method | 1 | gain |"
    assert lines[3] == "| --- | ---: | ---: |"
    assert lines[4] == r"| a\_b | **97.0↑** | +2.5% |"
    assert lines[5] == "| c | <u>50.0</u> | – |"
    assert lines[-1] == r"5% of x\_i < y & so on."


@pytest.mark.parametrize("label", ["a|b", "*a*", "<b>", "`a`", "_a_"])
def test_a_name_never_breaks_a_markdown_table(label):
    line = markdown(Table("t", "T", ["m", "x"], [[label, "1"]])).splitlines()[4]
    bare = line.replace("\\|", "").replace("\\*", "").replace("\\<", "")
    bare = bare.replace("\\`", "").replace("\\_", "")
    assert bare.count("|") == 3
    assert not set("*<`_") & set(bare)


def test_csv_has_the_numbers_whole_and_each_interval_in_columns_of_its_own():
    rows = list(csv.reader(io.StringIO(comma_separated(TABLE))))
    assert rows == [
        ["method", "1", "1_low", "1_high", "gain"],
        ["a_b", "97", "91.5", "99", "2.51235"],
        ["c", "50", "40.4", "59.6", ""],
        ["d", "", "1", "inf", "1e-09"],
    ]


def test_latex_marks_escapes_and_has_no_sign_that_it_does_not_know():
    code = latex(TABLE)
    assert r"a\_b & \textbf{97.0$\uparrow$} & +2.5\% \\" in code
    assert r"c & \underline{50.0} & -- \\" in code
    assert r"\textgreater{}150" in code
    assert r"5\% of x\_i \textless{} y \& so on." in code
    assert r"\begin{tabular}{lrr}" in code
    assert code.isascii()
    assert code.count("{") == code.count("}")


def test_plain_text_lines_up():
    lines = text(TABLE).splitlines()
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[0].endswith("gain")
    assert lines[2].startswith("a_b")


def test_a_plain_text_row_of_one_cell_is_a_line_of_its_own_and_columns_have_a_least_width():
    rows = [["a", "1", "2"], [""], ["a name much longer than its column"], ["", "3"]]
    lines = text(Table("t", "T", ["m", "x", "y"], rows, widths=(4, 3, 3))).splitlines()
    assert lines == [
        "m       x    y",
        "─" * 14,
        "a       1    2",
        "",
        "a name much longer than its column",
        "        3",
    ]
