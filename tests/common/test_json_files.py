"""JSON files of others: read whole, or refused with the place and the reason."""

import json

import pytest

from laid.common.errors import UserError
from laid.common.json_files import read_json


def test_unwanted_members_are_dropped_at_any_depth_and_the_rest_is_kept(tmp_path):
    objects = [{"id": 1, "segmentation": [[1.5]]}, {"segmentation": {"size": [1]}}]
    value = {"annotations": objects} | {
        "é": 'a "segmentation": [[1]] in words',
        "n": -12.5,
        "empty": [],
    }
    path = tmp_path / "file.json"
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")
    assert read_json(path) == value
    for annotation in value["annotations"]:
        del annotation["segmentation"]
    assert read_json(path, without="segmentation") == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*No such file"),
        (b"", r"not JSON.*character 0 of 0.*cut off"),
        (b'{"a": [1, 2', r"not JSON.*character 11 of 11.*cut off"),
        (b'{"a": "bc', r"not JSON.*character 6 of 9.*cut off"),
        (b'{"a":\n 1,,}', r"not JSON.*character 9 of 11; line 2, column 4\)\.$"),
        ("[[é]]".encode("latin-1"), r"not UTF-8.*byte 2"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5_000, "4300 digits"),
    ],
)
def test_what_is_not_json_is_refused_with_the_place(tmp_path, content, message):
    path = tmp_path / "some.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_json(path)
    assert "some.json" in str(caught.value)
