"""benchmarks/found_needles.py: how often a model finds the needle."""

import runpy
import sys

import pytest
from miniature.conftest import BENCHMARKS

SCRIPT = BENCHMARKS / "found_needles.py"


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *map(str, words)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_the_teacher_finds_needles_that_the_student_with_the_short_window_does_not(
    monkeypatch, capsys, drawn
):
    models = "teacher=tiny/teacher-independent", "student=tiny/student"
    run(monkeypatch, "--models", *models, "--coco_root", drawn, "--sizes", 40, "--per_size", 8)
    found = {
        row[0]: float(row[3].rstrip("%"))
        for row in map(str.split, capsys.readouterr().out.splitlines()[1:])
    }
    assert found["student"] < found["teacher"] == 100


@pytest.mark.parametrize(
    ("words", "said"),
    [("tiny/student", "expected NAME=WHAT"), ("a=tiny/nope", "no packaged model 'tiny/nope'")],
)
def test_wrong_input_is_told_in_one_line(monkeypatch, capsys, words, said):
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "--models", words)
    assert said in capsys.readouterr().err.splitlines()[-1]
