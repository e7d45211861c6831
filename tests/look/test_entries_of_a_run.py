"""What ``laid look`` takes an entry from: as typed, else as the run tests."""

import pytest

from laid.look.look_command import settings_of

TEST = {"source": ["a.jsonl"], "scoring": {"a.jsonl": "choice"}, "sizes": [3], "per_size": 2}
RUN = {"coco_root": "coco", "image_root": "images", "seed": 5, "test": TEST}
NOTHING = {"source": None, "split": None, "sizes": None, "per_size": None}


@pytest.mark.parametrize(
    ("typed", "source", "scoring", "sizes", "image_root"),
    [
        ({}, ["a.jsonl"], {"a.jsonl": "choice"}, [3], "images"),
        ({"sizes": [5]}, ["a.jsonl"], {"a.jsonl": "choice"}, [5], "images"),
        ({"source": ["b.jsonl"]}, ["b.jsonl"], None, None, None),
        ({"split": "val2017"}, None, None, [3], "images"),
    ],
)
def test_what_a_run_says_of_its_sources_is_not_of_others(typed, source, scoring, sizes, image_root):
    found = settings_of(RUN, {"coco_root": None, "seed": 7}, NOTHING | typed)
    test = found["test"]
    assert (test.source, test.scoring, test.sizes) == (source, scoring, sizes)
    assert (found["image_root"], found["coco_root"], found["seed"]) == (image_root, "coco", 7)
