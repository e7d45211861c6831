"""What a cache of signals depends on."""

import json

import lightning as L
import pytest

from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import EvaluationArgs, TrainArgs
from laid.teacher_cache.cache_identity import (
    reading_identity,
    teacher_differences,
    teacher_identity,
)
from laid.vlm.model_loading import ModelArgs


def test_answers_of_all_turns_are_another_cache_than_the_last_alone(drawn, pair, tmp_path):
    said = ("user", "Why?"), ("assistant", "So.")
    row = json.dumps({"messages": [{"role": role, "content": text} for role, text in said]})
    (tmp_path / "my.jsonl").write_text("\n".join([row] * 8))
    found = []
    for turns in ("last", "all"):
        data = HaystackDataModule(
            str(drawn),
            str(pair[0]),
            train=TrainArgs(str(tmp_path / "my.jsonl"), turns=turns),
            validate=EvaluationArgs(sizes=[2], per_size=2),
        )
        data.setup("fit")
        found.append(reading_identity(data))
    assert found[1] == {**found[0], "turns": "all"}


@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [("float32", "bf16-mixed"), ("float16", "bf16-mixed"), ("bfloat16", None)],
)
def test_the_dtype_in_which_a_teacher_computes_is_known(pair, dtype, autocast):
    trainer = L.Trainer(
        accelerator="cpu", precision="bf16-mixed", logger=False, enable_checkpointing=False
    )
    assert teacher_identity(ModelArgs(str(pair[1]), dtype=dtype), trainer)["autocast"] == autocast


def test_a_cache_that_does_not_say_whose_it_is_is_another_teachers():
    ours = {"weights": "1a", "config": "2b", "dtype": "float32", "autocast": None}
    found = teacher_differences({"dtype": "float32"}, ours)
    assert found == {"teacher.weights": (None, "1a"), "teacher.config": (None, "2b")}


def test_a_teacher_on_this_machine_is_known_by_its_content_and_one_that_is_not_by_its_name():
    stored = {"path": "a", "revision": None, "weights": "1a", "config": "2b", "dtype": "float32"}
    assert teacher_differences(stored, stored | {"path": "elsewhere/a"}) == {}
    away = stored | {"path": "b", "weights": None, "config": None}
    assert teacher_differences(stored, away) == {"teacher.path": ("a", "b")}
