"""Results of a part of the entries, and answers that were cut, say so wherever they are shown."""

import csv
import json

import pytest

from laid.cli.main import main


@pytest.fixture
def run(config, tmp_path, monkeypatch, capsys):
    """Runs ``laid test`` in this process: its results and what it printed."""
    monkeypatch.chdir(tmp_path)

    def test(*options):
        capsys.readouterr()
        main(["test", "--config", str(config), "--results", "limited", *map(str, options)])
        return json.loads((tmp_path / "limited/results.json").read_text()), capsys.readouterr()

    return test


def test_a_limited_test_is_marked_until_all_entries_are_asked(run, tmp_path):
    results, said = run("--trainer.limit_test_batches", 2)  # of three entries each
    assert results["entries"] == {"asked": 6, "available": 12}
    assert [cell["n"] for cell in results["by_size"].values()] == [4, 2]
    assert results["by_size"]["2"]["available"] == 4
    assert "limited (6 of 12 entries)" in said.out
    assert "2/4" in said.out
    assert "results.json: 6 of 12 entries" in said.err
    main(["compare", "limited", "--out", "report"])
    for name in ("report.md", "table.txt", "accuracy.tex"):
        assert "limited (6 of 12 entries)" in (tmp_path / "report" / name).read_text()
    row = next(csv.DictReader((tmp_path / "report" / "accuracy.csv").open()))
    assert row["method"] == "limited (6 of 12 entries)"
    results, said = run()
    assert results["entries"] == {"asked": 12, "available": 12}
    assert "of 12 entries)" not in said.out


def test_entries_that_settings_leave_out_of_a_source_are_counted(run, drawn, tmp_path):
    words = ["--train_entries", "2", "--max_size", "3", "--test_per_size", "4", "--sizes", "[2]"]
    main(["data", "build", "--coco_root", str(drawn), "--out", "vhs", *words])
    source = json.dumps([str(tmp_path / "vhs" / "test_2.json")])
    options = ("--data.test.source", source, "--data.test.sizes", "null")
    results, said = run(*options, "--data.test.per_size", 2)
    assert results["entries"] == {"asked": 2, "available": 4}
    assert "limited (2 of 4 entries)" in said.out
    results, _ = run(*options, "--data.test.per_size", "null")
    assert results["entries"] == {"asked": 4, "available": 4}


def test_answers_that_were_cut_are_marked_and_counted(run, tmp_path):
    results, said = run("--data.test.sizes", "[1]", "--model.max_new_tokens", 1)
    lines = (tmp_path / "limited" / "records.jsonl").read_text().splitlines()[1:]
    cut = [json.loads(line)["truncated"] for line in lines]
    assert results["overall"]["truncated"] == sum(cut) / 4 > 0
    assert f"{sum(cut)} of 4 answers were cut at model.max_new_tokens 1" in said.err
    assert "truncated" in said.out


def test_a_test_that_would_ask_nothing_is_refused(run, capsys):
    with pytest.raises(SystemExit) as stop:
        run("--trainer.limit_test_batches", 0)
    assert stop.value.code == 2
    assert "no entry would be asked" in capsys.readouterr().err
