"""docs/reliability.md holds what ``make campaign`` found last."""

from collections import Counter

from campaign.cases import CASES
from campaign.table import PAGE, replaced, rows, table


def test_its_table_has_every_kind_and_nothing_is_open():
    found = rows(PAGE.read_text())
    assert set(found) == {case.kind for case in CASES}
    assert all(tried == passed for tried, passed in found.values())


def test_every_promise_names_kinds_that_are_tried():
    promises = PAGE.read_text().split("## What is promised")[1].split("\n## ")[0]
    named = [cell.split("|")[2] for cell in promises.splitlines() if cell.startswith("| ")][1:]
    assert named
    kinds = {case.kind for case in CASES}
    for cell in named:
        assert {kind.strip() for kind in cell.split(",")} <= kinds, cell


def test_the_table_is_put_in_place():
    tried = Counter(case.kind for case in CASES)
    page = replaced(PAGE.read_text(), table(tried, tried))
    assert rows(page) == {kind: (n, n) for kind, n in tried.items()}
    assert page.split("<!--")[0] == PAGE.read_text().split("<!--")[0]
