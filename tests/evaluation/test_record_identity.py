"""Which records belong to a test: those of another are kept beside."""

import re

import pytest
from sample_records import IDENTITY, OTHER, RECORD, some

from laid.common.differences import ABSENT
from laid.evaluation.records import RecordFile, read_records


def test_records_of_another_identity_are_kept_and_a_new_file_is_begun(path):
    RecordFile(path, IDENTITY).append(some(3))
    before = path.read_bytes()
    file = RecordFile(path, OTHER)
    assert file.done == {}
    assert file.kept.parent == path.parent
    assert re.fullmatch(r"records-[0-9a-f]{8}\.jsonl", file.kept.name)
    file.append(some(1))
    assert file.kept.read_bytes() == before
    assert read_records(path)[:2] == (OTHER, {"e0": RECORD})


def test_what_differs_is_named_key_by_key(path):
    RecordFile(path, IDENTITY | {"seed": 1}).append([])
    file = RecordFile(path, OTHER | {"precision": "bf16"})
    assert file.changed == {
        "checkpoint": ("student-a", "student-b"),
        "generation.max_new_tokens": (8, 512),
        "seed": (1, ABSENT),
        "precision": (ABSENT, "bf16"),
    }


def test_going_back_to_an_earlier_identity_resumes_its_records(path):
    RecordFile(path, IDENTITY).append(some(3))
    RecordFile(path, OTHER).append(some(1))
    back = RecordFile(path, dict(reversed(IDENTITY.items())))  # the order of keys says nothing
    assert list(back.done) == ["e0", "e1", "e2"]
    back.append([])
    assert list(read_records(path).records) == ["e0", "e1", "e2"]
    assert list(read_records(back.kept).records) == ["e0"]
    assert len(list(path.parent.iterdir())) == 2


def test_a_kept_file_is_never_overwritten(path):
    RecordFile(path, IDENTITY).append(some(3))
    first = path.read_bytes()
    other = RecordFile(path, OTHER)
    other.append([])
    path.write_bytes(first)  # someone copied the old file back and left the kept one there
    with pytest.raises(ValueError, match="exists already"):
        RecordFile(path, OTHER)
    assert path.read_bytes() == other.kept.read_bytes() == first


def test_identities_are_compared_as_json(path):
    RecordFile(path, {"sizes": (1, 2), "b": 1, "a": 2}).append(some(1))
    assert list(RecordFile(path, {"a": 2, "b": 1, "sizes": [1, 2]}).done) == ["e0"]


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_an_identity_that_is_not_json_is_refused_before_anything_is_touched(path, value):
    with pytest.raises(ValueError, match="must be JSON"):
        RecordFile(path, {"checkpoint": value})
    assert not path.exists()
