"""Names from files and command lines reach no terminal, spreadsheet or page as more than text."""

import csv
import io
import logging

import pytest

from laid.common.logging_setup import set_up_logging
from laid.common.printable import code, for_markdown, for_spreadsheet, one_line, printable
from laid.common.tables import Table, comma_separated, latex, markdown, text

HOSTILE = (
    "\x1b[2J\x1b]0;title\x07",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "[here](javascript:alert(1))",
    '=HYPERLINK("http://x")',
    "+1+1",
    "@SUM(A1)",
    "a|b\nc",
    "`whoami`",
    "\u202etxt.exe",
    "&lt;b&gt;",
)


@pytest.fixture(params=HOSTILE, ids=range(len(HOSTILE)))
def table(request):
    name = request.param
    return Table("t", name, ["method", name], [[name, name]], [name])


def test_no_control_character_is_left(table):
    for form in (markdown, latex, comma_separated, text):
        assert all(c.isprintable() or c == "\n" for c in form(table)), form.__name__


def test_a_page_has_no_html_and_no_link_of_a_name(table):
    page = markdown(table)
    assert "<img" not in page.replace("\\<img", "")
    assert "<script" not in page.replace("\\<script", "")
    assert "](" not in page.replace("\\](", "")
    assert len({line.count("|") - line.count("\\|") for line in page.splitlines()[2:5]}) == 1


def test_no_cell_of_a_spreadsheet_is_a_formula(table):
    for row in csv.reader(io.StringIO(comma_separated(table))):
        assert all(cell[:1] not in ("=", "+", "@") for cell in row)


def test_numbers_stay_numbers():
    assert for_spreadsheet("laid") == "laid"
    assert "'" not in comma_separated(Table("t", "T", ["method", "n"], [["kd", "12"]]))


def test_plain_names_stay_as_they_are():
    for name in ("laid (5 seeds)", "kd [0.1 to 0.2]", "<0.001", "ünïcode 字", "a/b-c.d"):
        assert one_line(name) == name
        assert for_markdown(name) == name
    assert printable("a\tb\nc") == "a\tb\nc"


def test_code_closes_where_it_should():
    assert code("laid test") == "`laid test`"
    assert code("a `b` ``c``") == "``` a `b` ``c`` ```"


def test_messages_write_control_characters_out(capsys):
    set_up_logging()
    logging.getLogger("laid.test").error("no folder %s", "\x1b[31mred")
    assert capsys.readouterr().err == "laid: no folder \\x1b[31mred\n"
