"""Records outlive the process that wrote them, and never mix two tests."""

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
from sample_records import IDENTITY, OTHER, RECORD, some

import laid
from laid.evaluation.records import RecordFile, read_records

# What is written is what is read.


def test_records_come_back_equal_and_in_order(path):
    odd = replace(RECORD, id="ü", answer='yes\nlines, "quotes" \u2028 \ud800', depth=None, size=1)
    written = [*some(3), odd]
    assert RecordFile(path, IDENTITY).append(written) == 4
    assert list(RecordFile(path, IDENTITY).done.values()) == written
    found = read_records(path)
    assert found.identity == IDENTITY
    assert list(found.records.values()) == written
    assert found.length == path.stat().st_size


def test_the_first_record_of_an_id_stands(path):
    file = RecordFile(path, IDENTITY)
    again = replace(RECORD, answer="No.", correct=False)
    assert file.append([RECORD, again]) == 1
    assert file.append([again]) == 0
    # Two runs that answered the same entry may have left both lines.
    with path.open("a") as raw:
        raw.write(json.dumps(asdict(again)) + "\n")
    for done in (file.done, RecordFile(path, IDENTITY).done):
        assert list(done.values()) == [RECORD]


def test_a_file_begun_and_never_filled_is_resumed_too(path):
    RecordFile(path, IDENTITY).append([])
    file = RecordFile(path, IDENTITY)
    file.append([])
    assert (file.done, file.kept, file.changed) == ({}, None, {})
    assert len(path.read_text().splitlines()) == 1


def test_reading_and_opening_change_nothing_before_the_first_answer(path):
    RecordFile(path, OTHER)
    assert not path.parent.exists()
    RecordFile(path, OTHER).append(some(1))
    RecordFile(path, IDENTITY).append(some(2))
    with path.open("ab") as raw:
        raw.write(b'{"id": "e2", "si')
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    assert list(read_records(path).records) == ["e0", "e1"]
    opened = [RecordFile(path, identity) for identity in (IDENTITY, OTHER, {"third": 3})]
    assert [list(file.done) for file in opened] == [["e0", "e1"], ["e0"], []]
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


# A process that dies.

_ENDLESS = """
import sys
from tests_records import RECORD, IDENTITY
from dataclasses import replace
from laid.evaluation.records import RecordFile
file = RecordFile(sys.argv[1], IDENTITY)
i = len(file.done)
while True:
    file.append([replace(RECORD, id=f"e{i}", answer="yes " * 12_000)])
    print(i, flush=True)
    i += 1
"""


def _python(code, *arguments, tmp_path):
    """A real process that shares this file's constants."""
    (tmp_path / "tests_records.py").write_text(
        "from laid.evaluation.records import Record\n"
        f"RECORD = {RECORD!r}\nIDENTITY = {IDENTITY!r}\n"
    )
    paths = [str(tmp_path), str(Path(laid.__file__).parents[1])]
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


def test_a_killed_process_loses_nothing_it_had_appended_and_the_next_goes_on(path, tmp_path):
    reported = 0
    for goal in (20, 40):  # the second process starts on what the first one left
        process = _python(_ENDLESS, path, tmp_path=tmp_path)
        for line in process.stdout:
            reported = int(line) + 1
            if reported >= goal:
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    file = RecordFile(path, IDENTITY)
    # More may have been written than we read of.
    assert len(file.done) >= reported >= 40
    assert list(file.done) == [f"e{i}" for i in range(len(file.done))]
    assert file.append(some(1, start=len(file.done))) == 1
    assert path.read_bytes().endswith(b"\n")


def test_whatever_part_of_the_last_line_is_there_it_is_cut_off_and_written_anew(path):
    RecordFile(path, IDENTITY).append(some(2))
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for length in range(1, len(last)):
        path.write_bytes(whole[: len(whole) - len(last) + length])
        file = RecordFile(path, IDENTITY)
        assert list(file.done) == ["e0"]
        file.append([])
        assert path.read_bytes() == whole[: -len(last)]
    file.append(some(2))
    assert path.read_bytes() == whole


def test_a_full_disk_leaves_the_file_as_it_was_and_appending_can_be_tried_again(path):
    file = RecordFile(path, IDENTITY)
    file.append(some(2))
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            file.append(some(1, start=2, answer="yes " * 250))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert "e2" not in file.done
    assert file.append(some(1, start=2)) == 1
    assert list(RecordFile(path, IDENTITY).done) == ["e0", "e1", "e2"]


# Another test in the same place.


# Files that are not what they should be.

_LINE = json.dumps(asdict(RECORD))


@pytest.mark.parametrize(
    "line",
    [
        _LINE[:30],
        "",
        "[]",
        "{}",
        "\x00\x00",
        _LINE.replace('"size": 2', '"size": "2"'),
        _LINE.replace('"size": 2', '"size": true'),
        _LINE.replace('"size": 2', '"size": 0'),
        _LINE.replace('"correct": true', '"correct": 1'),
        _LINE.replace('"depth": 1.0', '"depth": 1.5'),
        _LINE.replace('"depth": 1.0', '"depth": NaN'),
        _LINE.replace('"answer_gold": "yes"', '"answer_gold": "maybe"'),
        _LINE.replace("}", ', "extra": 1}'),
        _LINE.replace('"correct": true', '"correct": false'),
        _LINE.replace('"compliant": true', '"compliant": false'),
        _LINE.replace('"Yes."', '"No."'),
        _LINE.replace('"depth": 1.0', '"depth": null'),
        _LINE.replace('"tokens": 770', f'"tokens": {2**70}'),
        _LINE.replace('"truncated": false', '"truncated": null'),
        "[" * 100_000,
    ],
)
def test_a_broken_line_that_is_not_the_last_names_file_and_line(path, line):
    RecordFile(path, IDENTITY).append(some(1))
    assert line != _LINE
    with path.open("a") as raw:
        raw.write(f"{line}\n{_LINE}\n")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"records\.jsonl, line 3: broken record"):
        RecordFile(path, IDENTITY)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"some notes",
        b"some notes\nof mine\n",
        b"\xff\xfe\n",
        b"[1]\n",
        b'{"laid_records": 1, "identity": {}}\n',
        b'{"laid_records": 2}\n',
        b'{"laid_records": 2, "identity": ' + b'{"a":' * 200 + b"1" + b"}" * 201 + b"\n",
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_file_that_holds_something_else_is_refused_and_left_alone(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match="line 1: expected the header"):
        RecordFile(path, IDENTITY)
    assert path.read_bytes() == content


@dataclass
class Entry:
    id: str = "e0"
    answer: str = "yes"
    mode: str = "single"
    size: int = 2
    needles: tuple[int, ...] = (1,)
    source: str = ""
    scoring: str = "yes-no"


def test_a_record_of_an_entry_that_was_not_asked_is_refused(path):
    RecordFile(path, IDENTITY).append([RECORD])
    assert RecordFile(path, IDENTITY, [Entry("e1"), Entry()]).done
    for change in ({"id": "e1"}, {"answer": "no"}, {"mode": "any"}, {"size": 3}, {"needles": (0,)}):
        with pytest.raises(ValueError, match="'e0', which is not asked, or not with this"):
            RecordFile(path, IDENTITY, [replace(Entry(), **change)])


def test_an_empty_file_is_as_good_as_none(path):
    path.parent.mkdir()
    path.touch()
    RecordFile(path, IDENTITY).append(some(1))
    assert list(RecordFile(path, IDENTITY).done) == ["e0"]


def test_a_missing_file_or_a_folder_cannot_be_read(path):
    with pytest.raises(ValueError, match="No such file"):
        read_records(path)
    path.mkdir(parents=True)
    with pytest.raises(ValueError, match="directory"):
        RecordFile(path, IDENTITY)


# Depth.
