"""Shards of tensors: what is read ahead for another process."""

import ctypes
import mmap
import os
import pickle

import pytest
import torch

from laid.common.errors import UserError
from laid.common.tensor_shards import TENSORS, Item, TensorShards

MIB = 2**20


def in_memory(path):
    """Bytes of a file that are in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    there = (ctypes.c_ubyte * pages)()
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), size) as mapped:
        begin = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        if libc.mincore(ctypes.c_void_p(begin), ctypes.c_size_t(size), there):
            pytest.skip(f"mincore: {os.strerror(ctypes.get_errno())}")
    return sum(page & 1 for page in there) * mmap.PAGESIZE


def forget(path):
    """Takes a file out of the page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if in_memory(path) > MIB:
        pytest.skip("this file system keeps files in memory")


@pytest.fixture
def shards(tmp_path):
    """One shard of two items, of 8 MiB each."""
    made = TensorShards(tmp_path, "key", "Make it again")
    items = [Item(name, (), {"x": torch.randn(2, MIB), "none": torch.empty(0)}) for name in "ab"]
    made.write("0", items)
    return made


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="can't empty the page cache here")
def test_what_is_read_ahead_is_in_the_page_cache(shards, tmp_path):
    path = tmp_path / "0" / TENSORS
    forget(path)
    ahead = pickle.loads(pickle.dumps(shards))  # as a worker gets it where none is forked
    ahead.read_ahead("0", 1)
    assert in_memory(path) >= 8 * MIB


def test_what_can_not_be_read_is_left_to_who_wants_it(shards, tmp_path):
    path = tmp_path / "0" / TENSORS
    path.write_bytes(path.read_bytes()[:100])
    shards.read_ahead("0", 0)
    shards.read_ahead("1", 0)
    with pytest.raises(UserError, match="Make it again"):
        shards.reader("0", 0)("x")
