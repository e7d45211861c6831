"""What a report says, and what it doesn't say without evidence."""

import numpy as np
import pytest

from laid.common.tables import text
from laid.comparison.methods import find_method, read_methods
from laid.comparison.report_tables import ablation_table, accuracy_table, tables, window_table
from laid.comparison.study import Study

SIZES = (1, 20, 50, 100)


def right(n, correct, shift=0):
    """``correct`` of n answers right, beginning at entry ``shift``."""
    return [(index - shift) % n < correct for index in range(n)]


def study(paths, base=None, teacher=None, thresholds=(0.5,)):
    methods, _ = read_methods(paths)
    named = [find_method(methods, label, "--") if label else None for label in (base, teacher)]
    return Study(methods, *named, thresholds, replicates=1000)


def rows(table):
    return {row[0].text: dict(zip(table.header, row, strict=True)) for row in table.cells()}


def everywhere(made, folder, correct, n=100, shift=0, **other):
    return made(folder, {size: right(n, correct, shift) for size in SIZES}, **other)


def test_the_best_is_bold_only_where_it_is_significantly_better_than_the_second(made):
    base = made("base", {1: right(100, 50), 20: right(100, 50)})
    laid = made("laid", {1: right(100, 80), 20: right(100, 52)})
    found = rows(accuracy_table(study([base, laid], "base")))
    assert (found["laid"]["1"].mark, found["laid"]["1"].text) == ("bold", "80.0↑")
    # Two entries of a hundred are no evidence.
    assert (found["laid"]["20"].mark, found["laid"]["20"].text) == ("", "52.0")
    assert {cell.mark for cell in found["base"].values()} == {""}


def test_two_that_do_not_differ_significantly_are_both_underlined_above_the_third(made):
    paths = [everywhere(made, n, c) for n, c in (("base", 40), ("sft", 80), ("laid", 82))]
    found = rows(accuracy_table(study(paths, "base")))
    for size in map(str, SIZES):
        marks = {name: found[name][size].mark for name in found}
        assert marks == {"base": "", "sft": "underline", "laid": "underline"}


def test_three_that_all_differ_significantly_are_bold_underlined_and_plain(made):
    paths = [everywhere(made, n, c) for n, c in (("base", 30), ("sft", 60), ("laid", 90))]
    found = rows(accuracy_table(study(paths, "base")))
    for size in map(str, SIZES):
        marks = {name: found[name][size].mark for name in found}
        assert marks == {"base": "", "sft": "underline", "laid": "bold"}


def test_equal_methods_have_no_mark_no_arrow_and_no_gain(made):
    paths = [everywhere(made, name, 70) for name in ("base", "laid", "sft")]
    report = study(paths, "base")
    found = rows(accuracy_table(report))
    assert {cell.mark for row in found.values() for cell in row.values()} == {""}
    assert not [cell for row in found.values() for cell in row.values() if "↑" in cell.text]
    assert found["laid"]["short gain"].text == "0.0%"
    for test in report.tests["laid"].values():
        assert (test.difference, test.p, test.adjusted) == (0, 1, 1)


def test_a_worse_method_gets_the_arrow_down(made):
    paths = [everywhere(made, n, c) for n, c in (("base", 80), ("yarn", 40))]
    found = rows(accuracy_table(study(paths, "base")))
    assert found["yarn"]["50"].text == "40.0↓"
    assert found["yarn"]["long gain"].text == "−50.0%↓"


def test_results_of_other_entries_get_gains_but_no_mark_and_the_report_says_why(made):
    base = everywhere(made, "base", 30)
    laid = everywhere(made, "laid", 90, entries="0ther")
    report = study([base, laid], "base")
    found = rows(accuracy_table(report))
    assert found["laid"]["1"].text == "90.0"
    assert found["laid"]["1"].mark == ""
    assert found["laid"]["short gain"].text == "+200.0%"
    (tests,) = [table for table in tables(report) if table.name == "tests"]
    assert not tests.rows
    assert "asked different entries" in tests.notes[-1]


def test_the_teacher_is_shown_first_and_neither_ranked_nor_tested(made):
    paths = [everywhere(made, n, c) for n, c in (("base", 30), ("laid", 60), ("32b", 90))]
    report = study(paths, "base", "32b")
    found = rows(accuracy_table(report))
    assert list(found) == ["32b", "base", "laid"]
    assert found["32b"]["1"].mark == ""
    assert found["laid"]["1"].mark == "bold"
    assert found["32b"]["short gain"].text == "–"
    assert report.tests.keys() == {"laid"}


def test_without_a_base_there_are_no_gains_ratios_and_tests(made):
    report = study([everywhere(made, "a", 50), everywhere(made, "b", 80)])
    names = [table.name for table in tables(report)]
    assert names == ["accuracy", "intervals", "windows", "tokens"]
    assert list(rows(window_table(report))["a"]) == ["method", "window at 0.5", "decay"]
    assert "short gain" not in accuracy_table(report).header
    # What is best needs no base.
    assert rows(accuracy_table(report))["b"]["1"].mark == "bold"


def test_gains_are_over_the_sizes_that_both_were_tested_at_and_this_is_said(made):
    base = everywhere(made, "base", 50)
    laid = made("laid", {1: right(100, 60), 20: right(100, 70), 50: right(100, 100)})
    report = study([base, laid], "base")
    (gains,) = [table for table in tables(report) if table.name == "gains"]
    assert rows(gains)["laid"]["long gain"].value[0] == pytest.approx(100)
    assert rows(gains)["laid"]["short gain"].value[0] == pytest.approx(30)
    assert "laid and the base were both tested with 1, 20, 50 images" in gains.notes[-1]
    other = made("other", {2: right(100, 60)})
    (gains,) = [table for table in tables(study([base, other], "base")) if table.name == "gains"]
    assert "other has no gain" in gains.notes[-1]


@pytest.mark.filterwarnings("error")
def test_entries_without_images_are_no_point_of_curves(made):
    """Their size 0 has no logarithm; accuracies and gains have it."""
    with_images = {1: right(100, 90), 20: right(100, 40)}
    plain, mixed = made("plain", with_images), made("mixed", {0: right(100, 70), **with_images})
    text = made("text", {0: right(100, 60)})
    found = rows(window_table(study([plain, mixed, text], "plain", thresholds=(0.5, 0.75))))
    for column in ("window at 0.5", "decay"):
        assert found["mixed"][column].value[0] == found["plain"][column].value[0]
    assert found["mixed"]["times 0.75"].value[0] == 1
    assert [cell.text for cell in list(found["text"].values())[1:]] == ["–"] * 6
    assert rows(accuracy_table(study([mixed, text])))["text"]["0"].text.startswith("60.0")


def test_tokens_are_those_of_the_records(made):
    paths = [everywhere(made, n, 50) for n in ("base", "laid")]
    found = {table.name: table for table in tables(study(paths, "base"))}["tokens"]
    assert found.header == ["images", "tokens"]
    assert [row[1].value for row in found.cells()] == [49 + 358 * size for size in SIZES]
    paths.append(everywhere(made, "small", 50, tokens=100))
    found = {table.name: table for table in tables(study(paths, "base"))}["tokens"]
    assert found.header == ["images", "base, laid", "small"]


@pytest.mark.parametrize("spelling", ["laid-wo-kl", "laid w/o KL", "wo-kl", "laid_without_kl"])
def test_the_ablation_is_found_by_name(made, spelling):
    paths = [everywhere(made, "base", 30), everywhere(made, "laid", 90)]
    assert ablation_table(study(paths, "base")) is None
    paths.append(everywhere(made, "ablated", 60, name=spelling))
    table = ablation_table(study(paths, "base"))
    found = rows(table)
    assert list(found) == ["base", "w/o KL", "laid"]
    assert found["laid"]["1"].mark == "bold"
    assert found["w/o KL"]["short gain"].text == "+100.0%↑"


def test_plain_distillation_is_the_objective_without_alignment(made):
    counts = {"base": 30, "kd": 50, "laid-wo-kl": 60, "laid": 90}
    paths = [everywhere(made, name, count) for name, count in counts.items()]
    table = ablation_table(study(paths, "base"))
    assert list(rows(table)) == ["base", "w/o KL", "w/o LAid", "laid"]


def test_windows_and_their_ratio_to_the_base(made):
    base = made("base", {1: right(100, 90), 10: right(100, 60), 40: right(100, 40)})
    laid = made("laid", {1: right(100, 90), 10: right(100, 85), 40: right(100, 80)})
    report = study([base, laid], "base", thresholds=(0.5, 0.83))
    found = rows(window_table(report))
    assert found["base"]["window at 0.5"].value[0] == pytest.approx(20)
    assert found["laid"]["window at 0.5"].text.startswith(">40 [")
    assert found["laid"]["times 0.5"].text.startswith("≥2.0")
    assert found["base"]["times 0.5"].text == "–"
    low, high = found["base"]["window at 0.5"].value[1:]
    assert low < 20 < high
    # Base: from 90 to 60 between 1 and 10; the method: from 85 to 80 between 10 and 40.
    expected = 10 * 4 ** (2 / 5) / 10 ** (7 / 30)
    assert found["laid"]["times 0.83"].value[0] == pytest.approx(expected)
    assert found["laid"]["slower"].value[0] > 1


def test_every_number_has_its_interval_n_and_p(made):
    paths = [everywhere(made, n, c) for n, c in (("base", 50), ("laid", 80))]
    found = {table.name: table for table in tables(study(paths, "base"))}
    assert all("–" in cell.text for cell in list(rows(found["intervals"])["laid"].values())[1:])
    tests = found["tests"].cells()
    assert [row[1].text for row in tests] == [*map(str, SIZES), "short", "long"]
    assert [row[2].value for row in tests] == [100] * 4 + [200] * 2
    for row in tests:
        value, low, high = row[3].value
        assert low < value < high
        assert row[6].value <= row[7].value


def test_seeds_have_the_intervals_of_the_bootstrap_and_one_seed_wilsons(made):
    rng = np.random.default_rng(0)
    answers = [{5: rng.random(50) < 0.6} for _ in range(4)]
    paths = [made(f"laid-seed{i}", of) for i, of in enumerate(answers[:3])]
    report = study([*paths, made("base", answers[3])], "base")
    laid, base = (next(m for m in report.rows if m.label == n) for n in ("laid", "base"))
    assert report.accuracy(base)[5].interval == base.results[0].by_size[5].interval
    value, (low, high) = report.accuracy(laid)[5]
    assert value == pytest.approx(np.mean([of[5] for of in answers[:3]]))
    assert low < value < high
    summary = report.summary(laid)
    assert summary.by_size[5].interval == (low, high)
    assert summary.name == "laid (3 seeds)"


def test_the_order_of_the_results_changes_no_line(made):
    paths = [
        everywhere(made, n, c, shift=s)
        for n, c, s in (
            ("base", 50, 0),
            ("laid-seed0", 80, 3),
            ("laid-seed1", 75, 9),
            ("sft", 70, 5),
        )
    ]
    forth, back = ([text(t) for t in tables(study(p, "base"))] for p in (paths, paths[::-1]))
    for one, other in zip(forth, back, strict=True):
        assert sorted(one.splitlines()) == sorted(other.splitlines())
