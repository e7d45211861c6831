"""The examples of docs/own_data.md are read, and say the same in a dataset."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from laid.data.conversation_files import Wanted, load_conversations, open_rows
from laid.data.entries import HaystackEntry
from laid.data.question_text import QuestionCheck

PAGE = (Path(__file__).parents[2] / "docs" / "own_data.md").read_text()
ROWS = re.findall(r"```json\n(.*?)```", PAGE, re.S)


@pytest.fixture
def read(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    for name in ("1.jpg", "2.jpg"):
        Image.new("RGB", (56, 40), "teal").save(tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)

    def entries(source, **wanted):
        rows = open_rows(source, "train")
        found, _ = load_conversations(rows, None, QuestionCheck(), Wanted(**wanted))
        return list(map(HaystackEntry.of, found))

    return entries


def test_every_example_is_read_as_it_says(read, tmp_path):
    (tmp_path / "my.jsonl").write_text("".join(ROWS))
    (tmp_path / "my.json").write_text(json.dumps(list(map(json.loads, ROWS)), indent=1))
    entries = read("my.jsonl")
    assert [entry.turns for entry in entries] == [entry.turns for entry in read("my.json")]
    assert [(len(entry.turns), entry.size, entry.answer) for entry in entries] == [
        (1, 2, "The second has a dog in it."),
        (2, 1, "A cat."),
        (4, 2, "None."),
        (1, 1, "B"),
        (1, 1, "3"),
    ]
    for at, scoring in ((3, "choice"), (4, "numeric"), (2, "exact"), (2, "contains")):
        (tmp_path / "one.jsonl").write_text(ROWS[at])
        assert read("one.jsonl", scoring=scoring)[0].scoring == scoring


def test_the_dataset_of_the_example_is_read(read):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(code, {})
    (entry,) = read("my_dataset")
    assert entry.turns[0].text == "<image> What is this?"
    assert read("hf:my_dataset")[0].answer == "A red ball."


def test_the_message_of_the_page_is_the_one_that_is_given(read, tmp_path):
    (shown,) = re.findall(r"    (my\.jsonl, line 3: .*)", PAGE)
    bad = json.loads(ROWS[0]) | {"conversations": [{"from": "user", "value": "<image>?"}]}
    (tmp_path / "my.jsonl").write_text(ROWS[0] + ROWS[1] + json.dumps(bad))
    with pytest.raises(ValueError, match=re.escape(shown)):
        read("my.jsonl")
