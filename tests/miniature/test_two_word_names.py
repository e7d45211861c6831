"""Drawn images whose objects have names of two words, for the benchmark of that name."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from laid.data.coco_index import CocoIndex
from laid.miniature.packaged_models import packaged_processor

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "two_word_names.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def test_the_images_and_what_they_show_stay_and_only_names_change(script, drawn, tmp_path):
    for _ in range(2):  # again, nothing changes
        script["rename"](drawn, tmp_path / "coco")
    before, after = (CocoIndex.load(root, "val2017") for root in (drawn, tmp_path / "coco"))
    assert after.files.tolist() == before.files.tolist()
    assert np.array_equal(after.present, before.present)
    assert after.categories == script["NAMES"][: len(before.categories)]
    for name in after.files[:3]:
        assert (tmp_path / "coco" / name).read_bytes() == (drawn / name).read_bytes()


def test_neither_word_of_a_name_is_enough(script):
    processor = packaged_processor()
    pairs = [processor.ids(f" {name}").tolist() for name in script["NAMES"]]
    assert {len(pair) for pair in pairs} == {2}
    assert len({tuple(pair) for pair in pairs}) == len(pairs)
    for word in (0, 1):
        assert len({pair[word] for pair in pairs}) == 5
