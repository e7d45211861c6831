"""A writer that dies, or whose disk is full, at any of its file operations."""

import os
import shutil

import pytest
from command_line.faults import DIED, inject
from stored_entries import filled, new_store

FULL = 28


def in_child(folder, log, at, error):
    """Fills a cache in a process of its own, with a fault at an operation; gives its exit code."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        inject(str(folder), str(log), at, error)
        filled(new_store(folder))
        code = 0
    except OSError as reason:
        code = reason.errno
    finally:
        os._exit(code)


@pytest.mark.parametrize(("error", "code"), [(None, DIED), ("ENOSPC", FULL)])
def test_what_was_whole_stays_and_the_next_writer_makes_the_rest(tmp_path, error, code):
    log = tmp_path / "operations"
    assert in_child(tmp_path / "counted", log, None, None) == 0
    operations = len(log.read_text().splitlines())
    assert operations > 10
    for at in range(operations):
        folder = tmp_path / str(at)
        # Where a full disk is met by what is only swept or locked, the writer goes on.
        assert in_child(folder, log, at, error) in (code, 0)
        store = new_store(folder)
        left = store.unfinished()
        assert filled(store) == [n for shard in left for n in store.entries_of(shard)]
        store.check_whole()
        names = sorted(path.name for path in (folder / "shards").iterdir())
        assert names == ["00000", "00001", "00002"]
        assert sorted(path.name for path in folder.iterdir()) == ["cache.json", "shards", "teacher"]
        shutil.rmtree(folder)
