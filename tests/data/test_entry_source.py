"""Entries of each stage: what limits a source, and what is said about it."""

import json
from pathlib import Path

import pytest
from PIL import Image

from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import EvaluationArgs, PredictArgs, TrainArgs
from laid.data.entry_source import EntrySource


@pytest.fixture
def source(small_coco):
    return EntrySource(small_coco, needles=(1,), min_area=0.001, seed=0)


@pytest.fixture
def official(small_coco, tmp_path):
    """A published file of 120 entries of 5 images, and one of 2 entries of 1 image."""
    rows = json.loads((small_coco.parent / "vhs" / "visual_haystack_5.json").read_text())
    path = tmp_path / "visual_haystack_5.json"
    path.write_text(json.dumps(rows * 40))
    return [str(path), str(small_coco.parent / "vhs" / "visual_haystack_oracle.json")]


def test_every_entry_of_a_source_is_asked_and_trained_on_unless_a_limit_is_given(
    source, official, logged, tmp_path
):
    entries, available = source.evaluation("test", EvaluationArgs(source=official))
    assert (len(entries), available) == (122, {"": {1: 2, 5: 120}})
    assert len(source.training(TrainArgs(source=official[0]))) == 120
    # More than the default of entries that are built.
    more = tmp_path / "more.json"
    more.write_text(json.dumps(json.loads(Path(official[0]).read_text()) * 45))
    assert len(source.training(TrainArgs(source=str(more)))) == 5400
    assert not logged


def test_what_a_limit_leaves_out_is_said_and_counted(source, official, logged):
    entries, available = source.evaluation("test", EvaluationArgs(source=official, per_size=100))
    assert (len(entries), available) == (102, {"": {1: 2, 5: 120}})
    assert "100 of 120 entries of 5 images (data.test.sizes, per_size)" in logged[0]
    logged.clear()
    entries, available = source.evaluation("validate", EvaluationArgs(source=official, sizes=[5]))
    assert (set(entries["size"]), available) == ({5}, {"": {1: 2, 5: 120}})
    assert "data.validate.source: 0 of 2 entries of 1 images" in logged[0]
    logged.clear()
    assert len(source.training(TrainArgs(source=official[0], entries=7))) == 7
    assert "first 7 of 120 entries" in logged[0]
    assert "data.train.entries" in logged[0]


def test_a_size_that_no_source_has_is_named_with_its_setting(source, official):
    with pytest.raises(ValueError, match=r"data\.test\.sizes: .*\[2, 9\] images; .* \[1, 5\]"):
        source.evaluation("test", EvaluationArgs(source=official, sizes=[9, 5, 2]))


def test_probes_are_of_the_sizes_that_the_validations_source_has(source, tmp_path, logged):
    image = Image.new("RGB", (8, 8))
    rows = []
    for at, size in enumerate((0, 2, 1, 2, 2)):
        image.save(tmp_path / f"{at}.png")
        user = {"role": "user", "content": "<image>" * size + "Why?"}
        answered = [user, {"role": "assistant", "content": "So."}]
        rows.append({"messages": answered, "images": [f"{at}.png"] * size})
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    args = EvaluationArgs([str(tmp_path / "my.jsonl")])
    assert list(source.probes("head_flow", args, None, 2, (1, 5))["size"]) == [2, 1, 2]
    assert list(source.probes("spectrum", args, [2], 1, (1, 5))["size"]) == [2]
    source.evaluation("validate", args)
    assert len(logged) == 1  # how many have no image, and not once for each that asks
    built = source.probes("head_flow", EvaluationArgs(), None, 2, (1, 5))
    assert list(built["size"]) == [1, 1, 5, 5]


def test_entries_that_are_built_are_all_asked(source):
    entries, available = source.evaluation("test", EvaluationArgs(sizes=[2, 3], per_size=4))
    assert (len(entries), available) == (8, {"": {2: 4, 3: 4}})


def test_a_question_about_a_folder_draws_no_images(small_coco, own_cache):
    data = HaystackDataModule(predict=PredictArgs(None, str(small_coco / "val2017"), "A cat?"))
    data.prepare_data()
    data.setup("predict")
    assert len(list(data.predict_dataloader())) == 1
    assert not (own_cache / "minicoco").exists()
