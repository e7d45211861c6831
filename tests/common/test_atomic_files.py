"""Files and folders that are whole or not there, whenever the process dies."""

import os
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from laid.common import atomic_files
from laid.common.atomic_files import (
    atomic_dir,
    atomic_write_text,
    discard,
    leftovers,
    only_writer,
    sweep,
)

DYING = """
import os, shutil, sys
from pathlib import Path

left = int(sys.argv[1])

def counted(function):
    def call(*args, **kwargs):
        global left
        if left == 0:
            os._exit(77)
        left -= 1
        return function(*args, **kwargs)
    return call

for name in ("rename", "replace", "unlink", "rmdir", "fsync", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))

from laid.common import atomic_files
from laid.common.atomic_files import *

if len(sys.argv) > 2:  # a system without RENAME_EXCHANGE
    atomic_files.ctypes.CDLL = lambda *args, **kwargs: None
place = Path("place")
{body}
"""

WRITERS = {
    "replacing": 'atomic_write_text(place, "new")',
    "atomic_dir": """
with atomic_dir(place, lambda there: True) as folder:
    for name in "ab":
        (folder / name).write_text("new")
""",
}


def die(tmp_path: Path, body: str, at: int, *more: str) -> int:
    """Runs a writer in a process that dies before its ``at``-th call that changes a folder."""
    code = DYING.replace("{body}", textwrap.dedent(body))
    done = subprocess.run(
        [sys.executable, "-c", code, str(at), *more],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(atomic_files.__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 77), done.stderr
    return done.returncode


def content(place: Path) -> str | None:
    """``old`` or ``new``, whole; None where there is nothing."""
    if place.is_dir():
        (text,) = {path.read_text() for path in place.iterdir()}
        assert sorted(path.name for path in place.iterdir()) == ["a", "b"]
        return text
    return place.read_text() if place.exists() else None


def begin(tmp_path: Path, kind: str) -> Path:
    place = tmp_path / "place"
    if kind == "replacing":
        place.write_text("old")
    else:
        place.mkdir()
        for name in "ab":
            (place / name).write_text("old")
    return place


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("system", [(), ("no exchange",)], ids=["exchange", "two renames"])
def test_killed_at_any_point_the_old_or_the_new_is_whole(tmp_path, kind, system):
    seen, gone = set(), 0
    for at in range(100):
        folder = tmp_path / str(at)
        folder.mkdir()
        place = begin(folder, kind)
        code = die(folder, WRITERS[kind], at, *system)
        found = content(place)
        if found is None:  # between two renames; the next command gives it back
            gone += 1
            assert system
            sweep(folder)
            found = content(place)
        seen.add(found)
        sweep(folder)
        assert content(place) == found
        assert [path.name for path in folder.iterdir()] == ["place"]
        if code == 0:
            break
    assert code == 0
    assert seen == {"old", "new"}
    assert gone == (1 if system and kind == "atomic_dir" else 0)


def test_what_a_dead_process_left_is_removed_by_the_next_one_that_writes_there(tmp_path):
    body = WRITERS["atomic_dir"]
    assert die(tmp_path, body, 2) == 77
    assert len(leftovers(tmp_path)) == 1
    assert die(tmp_path, 'atomic_write_text("other", "x")', 99) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_is_being_written_and_what_is_somebody_elses_stays(tmp_path):
    others = [".hidden.tmp", ".place.tmp", ".git", f".place.{'0' * 32}.tmp"]
    for name in others:
        (tmp_path / name).write_text("not ours")
    with atomic_dir(tmp_path / "place") as folder:
        (folder / "a").write_text("new")
        sweep(tmp_path)
        assert die(tmp_path, 'atomic_write_text("other", "x")', 99) == 0
        assert (folder / "a").exists()
    assert {path.name for path in tmp_path.iterdir()} == {*others, "place", "other"}


def test_a_temporary_of_another_machine_counts_as_dead_after_a_day(tmp_path):
    path = tmp_path / f".place.elsewhere-1-{'0' * 32}.tmp"
    path.write_text("")
    sweep(tmp_path)
    assert path.exists()
    os.utime(path, (0, 0))
    sweep(tmp_path)
    assert not path.exists()


def test_a_number_that_a_dead_process_had_before_this_one(tmp_path):
    """In a container every first process is 1."""
    host = re.sub(r"\W", "_", socket.gethostname())
    path = tmp_path / f".place.{host}-{os.getpid()}-{'0' * 32}.tmp"
    path.write_text("")
    assert leftovers(tmp_path) == [path]


def test_of_two_that_build_the_same_cache_the_first_keeps_the_name(tmp_path):
    with atomic_dir(tmp_path / "place") as second:
        (second / "a").write_text("second")
        with atomic_dir(tmp_path / "place") as first:
            (first / "a").write_text("first")
    assert (tmp_path / "place" / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_second_writer_of_a_place_is_refused_while_the_first_lives(tmp_path):
    with (
        only_writer(tmp_path / "place"),
        pytest.raises(ValueError, match=f"another process, {os.getpid()} on"),
        only_writer(tmp_path / "place"),
    ):
        pass
    with only_writer(tmp_path / "place"), only_writer(tmp_path / "elsewhere"):
        pass
    assert list(tmp_path.iterdir()) == []
    assert die(tmp_path, "with only_writer(place): os._exit(77)", 99) == 77
    with only_writer(tmp_path / "place"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_fails_leaves_nothing(tmp_path):
    atomic_write_text(tmp_path / "kept", "old")

    def fail():
        with atomic_dir(tmp_path / "place") as folder:
            (folder / "a").write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_link_to_a_folder_is_removed_and_the_folder_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    discard(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
