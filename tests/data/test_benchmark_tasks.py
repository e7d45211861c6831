"""Haystacks as tasks of lmms-eval and VLMEvalKit."""

import csv
import importlib.util
import json
from ast import literal_eval
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from laid.data import lmms_eval_task
from laid.data.build_command import build
from laid.data.image_files import load_image
from laid.data.prompt import PREFIX
from laid.data.vhs_files import read_vhs
from laid.evaluation.scoring import score_answer

SIZES = [1, 3]


@pytest.fixture(scope="module")
def made(drawn, tmp_path_factory):
    """A folder of each format, of the same entries."""
    home = tmp_path_factory.mktemp("made")
    for format, more in (("vhs", {"train_entries": 0}), ("lmms-eval", {}), ("vlmeval", {})):
        build(str(drawn), str(home / format), test_per_size=4, sizes=SIZES, format=format, **more)
    return home


@pytest.fixture(scope="module")
def entries(made, drawn):
    return {size: list(read_vhs(made / "vhs" / f"test_{size}.json", drawn)) for size in SIZES}


class Loader(yaml.SafeLoader):
    """Takes ``!function utils.NAME`` from the file beside the YAML, as lmms-eval does."""


def task(folder, size):
    spec = importlib.util.spec_from_file_location("utils", folder / "utils.py")
    utils = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)
    find = lambda loader, node: getattr(utils, node.value.removeprefix("utils."))  # noqa: E731
    Loader.add_constructor("!function", find)
    return yaml.load((folder / f"haystacks_{size}.yaml").read_text(), Loader)


@pytest.mark.parametrize("size", SIZES)
def test_a_task_shows_the_entries_images_first(made, entries, drawn, size):
    config = task(made / "lmms-eval", size)
    rows = Path(config["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()
    assert len(rows) == len(entries[size])
    for row, entry in zip(map(json.loads, rows), entries[size], strict=True):
        (turn,) = config["doc_to_messages"](row)
        *images, text = turn["content"]
        assert [part["type"] for part in images] == ["image"] * size
        for part, name in zip(images, entry["images"], strict=True):
            assert np.array_equal(part["url"], load_image(drawn / name))
        assert text == {"type": "text", "text": PREFIX + entry["question"]}
        assert "<image>" not in text["text"]
        assert row[config["doc_to_target"]] == entry["answer"]


def test_a_group_has_all_sizes(made):
    group = yaml.safe_load((made / "lmms-eval" / "haystacks.yaml").read_text())
    assert group == {"group": "haystacks", "task": ["haystacks_1", "haystacks_3"]}


@pytest.mark.parametrize("answer", ["Yes.", "no", "yes and no", "yes/no", "I can't", "", "NO!"])
@pytest.mark.parametrize("gold", ["yes", "no"])
def test_a_task_scores_as_laid_test_does(made, answer, gold):
    config = task(made / "lmms-eval", 3)
    scored = config["process_results"]({"id": "a", "size": 3, "answer": gold}, [answer])
    (metric,) = config["metric_list"]
    value = scored[metric["metric"]]
    assert value["score"] == score_answer(answer, gold).correct
    assert metric["aggregation"]([value, value]) == value["score"]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "P"])
def test_a_task_reads_an_image_as_laid_does(tmp_path, mode):
    pixels = np.arange(64 * 4, dtype=np.uint8).reshape(8, 8, 4)
    image = Image.fromarray(pixels, "RGBA")
    if mode == "I;16":
        image = Image.fromarray((np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8))
    path = tmp_path / "image.png"
    (image if mode == "I;16" else image.convert(mode)).save(path)
    (shown,) = lmms_eval_task.doc_to_visual({"images": [str(path)]})
    assert np.array_equal(shown, load_image(path))


@pytest.mark.parametrize("size", SIZES)
def test_a_tsv_has_vlmevalkits_columns(made, entries, drawn, size):
    with open(made / "vlmeval" / f"Haystacks_{size}.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [int(row["index"]) for row in rows] == list(range(4))
    # Columns "A" and "B" would make it multiple choice; "image" is for images in base64.
    assert list(rows[0]) == ["index", "id", "image_path", "question", "answer"]
    for row, entry in zip(rows, entries[size], strict=True):
        shown = row["image_path"]
        # VLMEvalKit evaluates what is in square brackets.
        paths = literal_eval(shown) if size > 1 else [shown]
        # Only absolute paths: its prompts don't look for relative ones in a folder of images.
        assert paths == [str(drawn.resolve() / name) for name in entry["images"]]
        assert row["question"] == PREFIX + entry["question"]
        # Its class for yes and no finds "Yes" or "No" in a reply and compares to the letter.
        assert row["answer"] == {"yes": "Yes", "no": "No"}[entry["answer"]]


def test_options_that_do_nothing_are_refused(drawn, tmp_path):
    for more in ({"train_entries": 4}, {"max_size": 9}, {"train_split": "val2017"}):
        with pytest.raises(ValueError, match="has test entries only"):
            build(str(drawn), str(tmp_path / "a"), format="vlmeval", **more)
    with pytest.raises(ValueError, match="nothing to write"):
        build(str(drawn), str(tmp_path / "a"), format="vlmeval", sizes=[])
    with pytest.raises(ValueError, match="have none"):
        build(str(drawn), str(tmp_path / "a"), prefix="")
    assert not list(tmp_path.iterdir())


def test_a_task_folder_is_not_replaced_unasked(made, drawn):
    with pytest.raises(ValueError, match="already holds haystacks_1"):
        build(str(drawn), str(made / "lmms-eval"), sizes=[1], test_per_size=2, format="lmms-eval")
