"""``laid compare``: the files that it writes and what it says when it can't."""

import csv
import json
import os
import re
import resource
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import pytest

import laid
from laid.cli.main import main
from laid.common.errors import UserError
from laid.comparison.methods import read_methods

SIZES = (1, 20, 50)


@pytest.fixture
def four(made):
    """A base, two seeds of a method, and a teacher."""
    correct = {"base": 20, "laid-seed0": 30, "laid-seed1": 32, "teacher": 38}
    for name, many in correct.items():
        made(name, {size: [index < many for index in range(40)] for size in SIZES})
    return made.root


def compare(*arguments):
    main(["compare", *map(str, arguments)])


def test_a_report_has_its_tables_in_four_forms_and_its_figures(four, tmp_path, capsys):
    out = tmp_path / "report"
    files = sorted(four.glob("*/results.json"))
    compare(*files, "--base", "base", "--teacher", "teacher", "--out", out)
    tables = {"accuracy", "intervals", "gains", "windows", "tests", "tokens"}
    for ending in ("csv", "tex"):
        assert {path.stem for path in out.glob(f"*.{ending}")} == tables
    report = (out / "report.md").read_text()
    for name in ("accuracy_by_size", "accuracy_bars", "accuracy_by_depth"):
        assert matplotlib.image.imread(out / f"{name}.png").std() > 0
        assert f"({name}.png)" in report
    assert "| laid (2 seeds) | **77.5↑** |" in report
    assert "no head flow" in report
    rows = list(csv.DictReader((out / "gains.csv").open()))
    assert float(rows[0]["short gain"]) == pytest.approx(55)
    printed = capsys.readouterr().out
    assert "laid (2 seeds)" in printed
    assert "short gain" in printed
    assert (out / "table.txt").read_text().startswith(printed.strip())
    assert max(map(len, printed.splitlines())) <= 200


def test_a_folder_of_several_sources_is_refused_with_their_names(made, tmp_path):
    for source in ("my", "other"):
        made(f"run/sources/{source}", {1: [True, False]})
    with pytest.raises(UserError, match=r"of one source, \S*run/sources/my or \S*sources/other"):
        read_methods([made.root / "run"])


def test_a_report_made_twice_is_the_same(four, tmp_path):
    for out in ("one", "two"):
        compare(*sorted(four.iterdir()), "--base", "base", "--out", tmp_path / out)
    for path in (tmp_path / "one").iterdir():
        if path.suffix != ".png":
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_report_takes_the_place_of_an_earlier_one_and_leaves_other_files(four, tmp_path):
    out = tmp_path / "report"
    compare(four / "base", four / "teacher", "--base", "base", "--out", out)
    (out / "README.md").write_text("mine")
    compare(four / "base", "--out", out)
    assert {path.stem for path in out.glob("*.csv")} == {
        "accuracy",
        "intervals",
        "windows",
        "tokens",
    }
    assert (out / "README.md").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_report_that_fails_leaves_the_earlier_one_as_it_was(four, tmp_path, capsys):
    out = tmp_path / "report"
    compare(four / "base", "--out", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(map(len, before.values()))
    for limit in (0, 100, 10_000, largest - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(SystemExit):
                compare(four / "base", four / "teacher", "--out", out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "File too large" in capsys.readouterr().err
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_that_is_not_for_a_report_alone_is_refused(four, capsys):
    for out in (four, four.parent):
        with pytest.raises(SystemExit):
            compare(four / "base", "--out", out)
        assert "name a folder for the report alone" in capsys.readouterr().err


DEEP = '{"laid_results": 2, "identity": ' + '{"a":' * 990 + "1" + "}" * 991


NO_RESULTS = ["", "{", "[]", "7", "null", '"x"', "NaN", "{}", "9" * 5000, "\0", "[" * 100_000, DEEP]


@pytest.mark.parametrize("content", NO_RESULTS, ids=lambda content: content[:12] + "…")
def test_results_that_are_none_are_refused_in_one_line(four, tmp_path, capsys, content):
    file = four / "base" / "results.json"
    file.write_text(content)
    with pytest.raises(SystemExit) as stop:
        compare(file, "--out", tmp_path / "report")
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert str(file) in err
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1


def test_any_single_change_of_a_results_file_is_refused_or_read(four):
    file = four / "base" / "results.json"
    whole = json.loads(file.read_text())
    values = (None, [], {}, "x", True, -1, 2**70, float("nan"), json.loads("[" * 300 + "]" * 300))

    def places(inside):
        for key in list(inside if isinstance(inside, dict) else range(len(inside))):
            yield inside, key
            if isinstance(inside[key], dict | list):
                yield from places(inside[key])

    for number, (inside, key) in enumerate(places(whole)):
        kept, inside[key] = inside[key], values[number % len(values)]
        file.write_text(json.dumps(whole))
        inside[key] = kept
        with suppress(UserError):  # anything else would be a traceback
            read_methods([file])


def test_without_a_base_it_says_which_there_are(four, tmp_path, capsys):
    compare(four / "base", four / "teacher", "--out", tmp_path / "report")
    out, err = capsys.readouterr()
    assert "without --base NAME, one of base, teacher" in err
    assert "short gain" not in out


def test_head_flow_is_found_in_the_run_behind_results_that_lie_elsewhere(made, tmp_path, capsys):
    curves = {"layer_2": [[0.9, 0.5], [0.4, 0.6]]}
    flow = {"sizes": [1, 20], "curves": dict.fromkeys(("student_before", "student_after"), curves)}
    home = made.root / "run" / "figures"
    home.mkdir(parents=True)
    (home / "head_flow.json").write_text(json.dumps(flow))
    training = replace(made.training("laid", 0), run="../run")
    made("laid", {1: [True] * 9, 20: [True] * 9}, training=training)
    compare(made.root / "laid", "--out", tmp_path / "report")
    assert matplotlib.image.imread(tmp_path / "report" / "head_flow.png").std() > 0
    assert "no head flow" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{}",
        "[]",
        '{"sizes": [1], "curves": {}}',
        '{"sizes": [1], "curves": {"student_after": {"layer_2": [[0.9], [0.8]]}}}',
        '{"sizes": [1, 2], "curves": {"student_after": {"layer_2": [[0.9], [0.8, 1]]}}}',
        '{"sizes": [1], "curves": {"student_after": {"layer_2": [["0.9"]]}}}',
    ],
)
def test_a_head_flow_that_is_broken_is_named(made, tmp_path, capsys, content):
    made("laid", {1: [True] * 9}, training=made.training("laid", 0))
    path = made.root / "laid" / "figures" / "head_flow.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(SystemExit):
        compare(made.root / "laid", "--out", tmp_path / "report")
    assert f"{path} is not what laid writes" in capsys.readouterr().err


def test_names_with_signs_of_their_own_keep_a_figure_each(made, tmp_path):
    flow = {"sizes": [1], "curves": {"student_before": {"layer_2": [[0.9]]}}}
    for name in ("a b", "a-b", "$\\bad{$"):
        made(name, {1: [True] * 9}, training=made.training(name, 0))
        path = made.root / name / "figures" / "head_flow.json"
        path.parent.mkdir()
        path.write_text(json.dumps(flow))
    compare(*made.root.iterdir(), "--out", tmp_path / "report")
    assert len(list((tmp_path / "report").glob("head_flow_*.png"))) == 3


def test_thresholds_are_those_that_were_typed(four, tmp_path):
    out = tmp_path / "report"
    compare(four / "base", "--out", out, "--threshold", 0.4, 0.6)
    header = (out / "windows.csv").read_text().splitlines()[0].split(",")
    assert "window at 0.4" in header
    assert "window at 0.6" in header
    assert "window at 0.5" not in header


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--base", "bsae"], "--base 'bsae': there are no results of that name; there are 'base'"),
        (["--teacher", "x"], "--teacher 'x'"),
        (["--base", "base", "--teacher", "base"], "name two of the results"),
        (["--threshold", "50"], "expected accuracies such as 0.5 0.75"),
    ],
)
def test_what_does_not_fit_is_refused(four, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        compare(four / "base", "--out", tmp_path / "report", *options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_a_folder_without_results_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        compare(tmp_path / "runs", "--out", tmp_path / "report")
    assert f"cannot read {tmp_path / 'runs'}" in capsys.readouterr().err


def imported(*arguments):
    """The packages that a command of its own process imports."""
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "laid", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(Path(laid.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(re.findall(r"^import time:.*\| +(\w+)", ran.stderr, re.MULTILINE))


def test_the_command_starts_without_torch_and_the_libraries_of_models(four, tmp_path):
    heavy = {"torch", "torchmetrics", "lightning", "transformers", "datasets"}
    found = imported("compare", four / "base", four / "teacher", "--out", tmp_path / "report")
    assert {"laid", "numpy", "matplotlib"} <= found
    assert not found & heavy
    assert (tmp_path / "report" / "report.md").exists()
    found = imported("--help")
    assert "laid" in found
    assert not found & (heavy | {"numpy", "matplotlib"})
