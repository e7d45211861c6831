"""All models are asked in the same words and shown the same pixels: those of the runs."""

from pathlib import Path

import pytest
import torch
import yaml

from laid.checkpoints.runs import EMBEDDED, FORMAT, Found
from laid.common.errors import UserError
from laid.data.prompt import PREFIX
from laid.inspection.named_models import NamedModel, models_of_run
from laid.inspection.shown_haystacks import encoding_of
from laid.vlm.model_loading import ModelArgs

BASE = NamedModel("base", "tiny/student", ModelArgs(), None)
NOTHING = {"prefix": None, "min_pixels": None, "max_pixels": None}


def run(name, prefix, most=None):
    data = {"prefix": prefix, "min_pixels": None, "max_pixels": most}
    return NamedModel(name, name, ModelArgs(), Found(Path(), Path(), {"data": data}, {}))


@pytest.mark.parametrize("teacher", [None, {"path": "tiny/teacher"}])
def test_a_run_may_name_no_teacher(tmp_path, teacher):
    """Where it has none, or takes the teacher of its cache, whichever that is."""
    model = {"student": {"path": "tiny/student"}, "teacher": teacher}
    embedded = {
        "format": FORMAT,
        "config": yaml.safe_dump({"model": model}),
        "identity": {"step": 1},
    }
    torch.save({EMBEDDED: embedded}, tmp_path / "step=1.ckpt")
    found = models_of_run(str(tmp_path / "step=1.ckpt"), "bfloat16")
    names = ["base", "student", *(["teacher"] if teacher else [])]
    assert [model.name for model in found] == names
    assert {model.args.dtype for model in found} == {"bfloat16"}


def test_without_a_run_they_are_the_defaults():
    assert encoding_of([BASE], NOTHING) == ({**NOTHING, "prefix": PREFIX}, [])


def test_they_are_those_of_the_runs():
    found, notes = encoding_of([BASE, run("one", "", 784), run("two", "", 784)], NOTHING)
    assert found == {"prefix": "", "min_pixels": None, "max_pixels": 784}
    assert notes == []


def test_runs_that_differ_are_refused():
    with pytest.raises(UserError, match=r"data.prefix \(one '', two 'Look: '\).*--prefix"):
        encoding_of([run("one", ""), run("two", "Look: ")], NOTHING)


def test_what_is_typed_counts_and_a_run_with_another_is_noted():
    typed = {**NOTHING, "prefix": ""}
    found, notes = encoding_of([run("one", ""), run("two", "Look: ")], typed)
    assert found["prefix"] == ""
    assert notes == ["two: trained with data.prefix 'Look: ', not ''"]
