"""Hashes of files: always those of the content, and of an unchanged file without reading it."""

import hashlib
import os
import time

import pytest

from laid.common.cached_files import cache_root
from laid.common.file_hashes import file_hashes


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LAID_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("laid.common.file_hashes._SETTLED_S", 0.1)


@pytest.fixture
def reads(monkeypatch, tmp_path):
    """The files that are opened, of those in the folder of the test."""
    opened = []
    real = open

    def spy(path, *args, **kwargs):
        opened.append(os.path.basename(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr("laid.common.file_hashes.open", spy, raising=False)
    return opened


@pytest.fixture
def settled(tmp_path):
    """Two files that were written long enough ago to be remembered."""
    files = [tmp_path / "a.bin", tmp_path / "b.bin"]
    for file in files:
        file.write_bytes(file.name.encode() * 1000)
    time.sleep(0.2)
    return files


def test_a_file_is_read_once(settled, reads):
    expected = [sha256(file.read_bytes()) for file in settled]
    assert file_hashes(settled) == expected
    assert sorted(reads) == ["a.bin", "b.bin"]
    assert file_hashes(reversed(settled)) == expected[::-1]
    assert len(reads) == 2
    link = settled[0].with_name("link")
    link.symlink_to(settled[1])
    assert file_hashes([link]) == expected[1:]
    assert len(reads) == 2


def test_no_change_goes_unseen(settled, reads):
    """Not even one that keeps size and time of the last write, as copies may."""
    file_hashes(settled)
    kept = settled[0].stat()
    content = bytearray(settled[0].read_bytes())
    content[500] ^= 1
    settled[0].write_bytes(content)
    os.utime(settled[0], ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert file_hashes(settled)[0] == sha256(content)
    assert sorted(reads) == ["a.bin", "a.bin", "b.bin"]
    # Two changes in a row, on one tick of the clock or not.
    for byte in range(5):
        content[501] = byte
        settled[0].write_bytes(content)
        assert file_hashes(settled)[0] == sha256(content)


@pytest.mark.parametrize("harm", [lambda b: b[:-1], lambda b: b.replace(b"a.bin", b"b.bin"), None])
def test_a_damaged_memory_is_not_believed(settled, harm):
    expected = file_hashes(settled)
    (memory,) = (cache_root() / "hashes").iterdir()
    whole = memory.read_bytes()
    memory.write_bytes(b"" if harm is None else harm(whole))
    assert file_hashes(settled) == expected
    assert memory.read_bytes() == whole


def test_a_large_file_of_the_hubs_cache_is_known_by_its_name(tmp_path, reads):
    """It keeps large files under their SHA-256, and small ones under git's hash, which are read."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "commit"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    large, small = sha256(b"weights"), "0" * 40
    for link, name in (("model.safetensors", large), ("config.json", small)):
        (blobs / name).write_text(link)
        (snapshot / link).symlink_to(blobs / name)
    found = file_hashes([snapshot / "model.safetensors", snapshot / "config.json"])
    assert found == [large, sha256(b"config.json")]
    assert reads == [small]


def test_a_cache_that_can_not_be_written_is_no_obstacle(settled, monkeypatch, tmp_path):
    monkeypatch.setenv("LAID_CACHE", str(settled[0]))
    assert file_hashes(settled) == [sha256(file.read_bytes()) for file in settled]


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        file_hashes([tmp_path / "none"])
