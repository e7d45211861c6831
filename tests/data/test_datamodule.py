"""The data module: what a test asks and shows, by content."""

import shutil

import pytest

from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import EvaluationArgs


@pytest.fixture
def coco(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / "coco")


def fingerprint(coco, pair, **settings):
    chosen = {"sizes": [2], "per_size": 2} | settings
    data = HaystackDataModule(str(coco), str(pair[0]), test=EvaluationArgs(**chosen))
    data.setup("test")
    entries = data.test_entries
    return data.source.fingerprint(entries), {n for images in entries["images"] for n in images}


def test_the_fingerprint_of_a_test_covers_the_bytes_of_the_images_that_it_shows(coco, pair):
    first, shown = fingerprint(coco, pair)
    assert fingerprint(coco, pair)[0] == first
    images = sorted((coco / "val2017").iterdir())
    unseen = next(path for path in images if f"val2017/{path.name}" not in shown)
    seen = coco / min(shown)
    for path, same in ((unseen, True), (seen, False)):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1  # of the last checksum, which no reader looks at
        path.write_bytes(content)
        assert (fingerprint(coco, pair)[0] == first) == same
    assert fingerprint(coco, pair, per_size=4)[0] != first
