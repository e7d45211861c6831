"""Answers to standard benchmarks, in the files of lmms-eval and VLMEvalKit."""

import csv
import json

import pytest

from laid.cli.main import main
from laid.common.errors import UserError
from laid.comparison.benchmarks import Benchmarks
from laid.comparison.harness_files import read_answers
from laid.comparison.paired_tests import sign_flip

RIGHTS = [True] * 12 + [False] * 8


def samples(path, metrics, question="Which?"):
    """A file as ``--log_samples`` writes it; ``metrics`` one a sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "doc_id": at,
            "target": "A",
            "filtered_resps": "A",
            "token_counts": [{"output_tokens": 1}],
            "doc_hash": "the same of all",
            "input": f"{question} {at}",
            **of,
        }
        for at, of in enumerate(metrics)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def harness(tmp_path):
    """A folder of lmms-eval: a function of (name, benchmark, rights)."""

    def make(name, benchmark, rights, **more):
        file = f"20261128_101112_samples_{benchmark}.jsonl"
        path = tmp_path / "logs" / name / "model" / file
        samples(
            path, [{"average": {"question_id": 1, "score": float(of)}} for of in rights], **more
        )
        return f"{name}={tmp_path / 'logs' / name}"

    return make


@pytest.mark.parametrize(
    "metric",
    [
        lambda right: {"exact_match": float(right)},
        lambda right: {"math": {"score": int(right)}, "average": {"score": int(right)}},
        lambda right: {"muir_score": {"pred": "a" if right else "B", "answer": "A"}},
        lambda right: {
            "mmmu_acc": {
                "question_type": "multiple-choice",
                "answer": "A",
                "parsed_pred": ["A" if right else "C"],
            },
            "submission": {"validation_1": "A"},
        },
    ],
    ids=["a number", "two metrics", "MUIRBench", "MMMU"],
)
def test_lmms_evals_metrics_are_read(tmp_path, metric):
    path = samples(tmp_path / "1_samples_some.jsonl", [metric(right) for right in RIGHTS])
    benchmark, correct, left_out = read_answers(path)
    assert benchmark == "some"
    assert list(correct.values()) == RIGHTS
    assert not left_out


def test_answers_that_are_not_scored_are_left_out_and_said(tmp_path):
    open_question = {"mmmu_acc": {"question_type": "open", "answer": "2", "parsed_pred": ["2"]}}
    closed = {"mmmu_acc": {"question_type": "multiple-choice", "answer": "A", "parsed_pred": ["A"]}}
    path = samples(tmp_path / "1_samples_mmmu_val.jsonl", [closed, open_question])
    assert read_answers(path).left_out == 1
    assert "1 answers are left out" in Benchmarks([f"base={path}"]).notes[0]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([{"anls": 0.4}], "only right"),
        ([{"a": 1.0, "b": 0.0}], "metrics disagree"),
        ([{"judged": {"answer": "A", "prediction": "It is A"}}], "says of no answer"),
        ([], "says of no answer"),
    ],
)
def test_what_is_not_right_or_wrong_is_refused(tmp_path, metrics, message):
    with pytest.raises(ValueError, match=message):
        read_answers(samples(tmp_path / "1_samples_some.jsonl", metrics))


def table(path, rows, delimiter="\t"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("column", ["hit", "score", None])
def test_vlmevalkits_files_are_read(tmp_path, column):
    rows = [
        {
            "index": at,
            "answer": "Yes" if column is None else "A",
            "prediction": "Yes." if right else "no",
            **({} if column is None else {column: {"hit": int(right), "score": right}[column]}),
        }
        for at, right in enumerate(RIGHTS)
    ]
    path = table(tmp_path / "Model-7B" / "T20261128" / "Model-7B_Haystacks_20.tsv", rows)
    assert read_answers(path) == (
        "Haystacks_20",
        dict(zip(map(str, range(20)), RIGHTS, strict=True)),
        0,
    )
    as_json = path.with_suffix(".json")
    as_json.write_text(json.dumps(rows))
    assert read_answers(as_json) == read_answers(path)


def test_what_vlmevalkit_has_scored_is_not_scored_again(tmp_path):
    row = {"index": 0, "answer": "Yes", "prediction": "yes and no"}
    scored = table(tmp_path / "m_A_auxmatch.tsv", [{**row, "extracted": "Unknown", "score": False}])
    assert read_answers(scored).correct == {"0": False}
    assert read_answers(table(tmp_path / "m_A.tsv", [row])).correct == {"0": True}


def test_choices_that_vlmevalkit_has_not_matched_are_refused(tmp_path):
    path = table(tmp_path / "m_MMBench.tsv", [{"index": 1, "answer": "A", "prediction": "a cat"}])
    with pytest.raises(ValueError, match="column hit or score"):
        read_answers(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("1_samples_some.jsonl", b'{"doc_id": "\xff"}\n', "line 1: expected a sample"),
        ("m_A.json", b'[{"index": 1, "prediction": "a"}, {"index": 2}]', "columns index and"),
        ("m_A.xlsx", b"no workbook", "not a workbook"),
    ],
)
def test_a_file_that_can_be_read_in_part_is_refused(tmp_path, name, content, message):
    if name.endswith(".xlsx"):
        pytest.importorskip("openpyxl")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_answers(tmp_path / name)


def test_workbooks_may_be_empty_and_rows_may_end_early(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    for name, rows in (
        ("empty", []),
        ("m_A", [("index", "prediction", "hit"), (1, "a", 1), (2, "b")]),
    ):
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.save(tmp_path / f"{name}.xlsx")
    with pytest.raises(UserError, match="columns index and prediction"):
        read_answers(tmp_path / "empty.xlsx")
    assert read_answers(tmp_path / "m_A.xlsx") == ("m_A", {"1": True}, 1)


def test_models_are_tested_entry_by_entry(harness):
    worse, better = RIGHTS, [True] * 19 + [False]
    given = [harness("base", "mmstar", worse), harness("student", "mmstar", better)]
    accuracy, tests = Benchmarks(given).tables("base", None)
    (row,) = tests.rows
    assert [cell if isinstance(cell, str) else cell.text for cell in row[:2]] == [
        "student",
        "mmstar",
    ]
    assert [cell.value for cell in (row[2], *row[4:6])] == [20, 7, 0]
    assert row[6].value == sign_flip([1] * 7)
    assert [row[0] for row in accuracy.rows] == ["base", "student"]
    assert accuracy.rows[0][1].value[0] == pytest.approx(60)


def test_seeds_are_pooled_and_other_versions_of_a_benchmark_are_not_paired(harness):
    seeds = [harness(f"student-seed{seed}", "mmstar", RIGHTS) for seed in (0, 1)]
    other = harness("other", "mmstar", RIGHTS, question="What?")
    found = Benchmarks([harness("base", "mmstar", RIGHTS), *seeds, other])
    accuracy, tests = found.tables("base", None)
    assert [row[0] for row in accuracy.rows] == ["base", "student (2 seeds)", "other"]
    assert [row[0] for row in tests.rows] == ["student (2 seeds)"]
    assert "other and base did not answer the same mmstar" in found.notes


def test_of_several_runs_of_a_task_the_newest_counts(harness, tmp_path):
    given = harness("base", "mmstar", RIGHTS)
    folder = tmp_path / "logs" / "base" / "model"
    samples(folder / "20261129_000000_samples_mmstar.jsonl", [{"average": 0.0}] * 20)
    accuracy, *_ = Benchmarks([given]).tables(None, None)
    assert accuracy.rows[0][1].value[0] == 0


def test_a_report_has_them_beside_haystacks_and_alone(made, harness, tmp_path, capsys):
    for name, many in {"base": 20, "student": 30}.items():
        made(name, {1: [index < many for index in range(40)]})
    given = [harness("base", "mmstar", RIGHTS), harness("student", "mmstar", [True] * 20)]
    out = tmp_path / "report"
    runs = sorted(map(str, made.root.glob("*")))
    main(["compare", *runs, "--base", "base", "--benchmarks", *given, "--out", str(out)])
    for name in ("accuracy", "benchmarks", "benchmark_tests"):
        assert (out / f"{name}.csv").exists()
    assert "Paired tests of benchmarks against base" in (out / "report.html").read_text()
    main(["compare", "--base", "base", "--benchmarks", *given, "--out", str(out)])
    assert {path.stem for path in out.glob("*.csv")} == {"benchmarks", "benchmark_tests"}
    assert "mmstar" in (out / "report.md").read_text()
    assert "mmstar" in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--look", "look"], ["--threshold", "0.9"]])
def test_what_is_of_haystacks_is_refused_with_benchmarks_alone(harness, tmp_path, capsys, option):
    given = harness("base", "mmstar", RIGHTS)
    with pytest.raises(SystemExit):
        main(["compare", "--benchmarks", given, *option, "--out", str(tmp_path / "report")])
    assert f"{option[0]} is of results of laid test" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["here", "=here", "base=", "base=not/there"])
def test_what_is_not_a_name_and_a_file_is_refused(given):
    with pytest.raises(ValueError, match="--benchmarks"):
        Benchmarks([given])
