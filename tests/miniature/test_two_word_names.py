"""Drawn images whose objects have names of two words, for the benchmark of that name."""

import numpy as np

from laid.data.coco_index import CocoIndex
from laid.miniature.packaged_models import packaged_processor


def test_the_images_and_what_they_show_stay_and_only_names_change(two_words, drawn, tmp_path):
    for _ in range(2):  # again, nothing changes
        two_words["rename"](drawn, tmp_path / "coco")
    before, after = (CocoIndex.load(root, "val2017") for root in (drawn, tmp_path / "coco"))
    assert after.files.tolist() == before.files.tolist()
    assert np.array_equal(after.present, before.present)
    assert after.categories == two_words["NAMES"][: len(before.categories)]
    for name in after.files[:3]:
        assert (tmp_path / "coco" / name).read_bytes() == (drawn / name).read_bytes()


def test_neither_word_of_a_name_is_enough(two_words):
    processor = packaged_processor()
    pairs = [processor.ids(f" {name}").tolist() for name in two_words["NAMES"]]
    assert {len(pair) for pair in pairs} == {2}
    assert len({tuple(pair) for pair in pairs}) == len(pairs)
    for word in (0, 1):
        assert len({pair[word] for pair in pairs}) == 5
