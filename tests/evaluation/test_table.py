"""A table fits the terminal, whatever models and sizes it is given."""

import re

import pytest

from laid.common.tables import WIDTH
from laid.evaluation.accuracy_table import format_table
from laid.evaluation.records import Record
from laid.evaluation.results import read_results, write_results
from laid.evaluation.summary import summarise

SIZES = (1, 2, 5, 10, 20, 50, 100, 150)


def results(name, correct=97, sizes=SIZES, compliant=True):
    """A model with `correct` right answers of 100 at each size."""
    records = [
        Record(
            f"{size}-{i}",
            size,
            "yes",
            answer if compliant else "?",
            answer == "Yes",
            compliant,
            None if size == 1 else 0.5,
            100,
            "single",
            False,
        )
        for size in sizes
        for i, answer in enumerate(["Yes"] * correct + ["No"] * (100 - correct))
    ]
    return summarise(records, name=name, identity={}, command="", seed=None)


def model(*given, **more):
    return results(*given, **more).summary


def cells(line):
    return line.split()[1:]


def test_a_table_shows_accuracy_interval_and_n_in_percent():
    lines = format_table([model("student")]).splitlines()
    assert cells(lines[0]) == [*map(str, SIZES), "short", "long"]
    assert cells(lines[2]) == ["97.0"] * 10
    assert cells(lines[3]) == ["91.5–99.0"] * 8
    assert cells(lines[4]) == ["100"] * 8
    assert len(lines) == 5
    assert cells(format_table([model("none", 0)]).splitlines()[3]) == ["0–3.7"] * 8
    assert cells(format_table([model("all", 100)]).splitlines()[3]) == ["96.3–100"] * 8


@pytest.mark.parametrize("names", [["a"], ["a", "b" * 18], ["a name of some length " * 3, "b"]])
def test_eight_sizes_fit_the_width_whatever_the_names_and_numbers(names):
    models = [model(name, correct) for name in names for correct in (0, 50, 100)]
    models += [model(name, 0, compliant=False) for name in names]
    table = format_table(models)
    assert max(map(len, table.splitlines())) <= WIDTH
    assert all(name.rstrip() in table for name in names)


def test_numbers_end_under_their_size_and_never_run_together():
    lines = format_table([model("worst", 0), model("half", 50), model("best", 100)]).splitlines()
    ends = [match.end() for match in re.finditer(r"\d+", lines[0])]
    rows = [line for line in lines if "%" in line or " n " in line]
    assert len(rows) == 6
    for row in rows:
        assert [match.end() for match in re.finditer(r"\S+", row)][1:] == ends


def test_a_size_at_which_a_model_was_not_tested_reads_as_a_dash():
    table = format_table([model("a", sizes=(1, 50)), model("b", sizes=(1, 100))])
    lines = table.splitlines()
    assert cells(lines[0])[:3] == ["1", "50", "100"]
    assert cells(lines[2]) == ["97.0", "97.0", "–", "97.0", "97.0"]
    assert cells(lines[6]) == ["97.0", "–", "97.0", "97.0", "97.0"]
    assert cells(lines[8]) == ["100", "–", "100"]
    assert "means over the sizes that each model was tested at" in lines[-1]


def test_compliance_is_shown_only_for_models_below_100_percent():
    table = format_table([model("a"), model("b", 0, compliant=False)])
    assert [cells(line) for line in table.splitlines() if "compliant" in line] == [["0.0"] * 8]


def test_more_sizes_than_fit_are_split_over_tables():
    sizes = tuple(range(1, 21))
    table = format_table([model("a", sizes=sizes)])
    heads = [line for line in table.splitlines() if line.startswith("images")]
    assert [int(c) for h in heads for c in cells(h) if c.isdigit()] == list(sizes)
    assert table.count("short") == 1
    assert max(map(len, table.splitlines())) <= WIDTH


def test_a_table_is_the_same_from_memory_and_from_a_file(tmp_path):
    in_memory = results("a")
    write_results(tmp_path / "results.json", in_memory)
    read = read_results(tmp_path / "results.json")
    assert format_table([in_memory.summary]) == format_table([read.summary])
