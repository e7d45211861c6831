"""A teacher that is asked once of each entry, and its cache: ``online+cache:FOLDER``."""

import os
import shutil

import pytest
import torch
from command_line.faults import DIED, inject

from laid.signals.model_signals import Wanted
from laid.teacher_cache.cached_teacher import CachedTeacher
from laid.teacher_cache.filling_teacher import FillingTeacher
from laid.teacher_cache.signal_store import CacheHeader, SignalStore, is_complete
from laid.vlm.online_teacher import OnlineTeacher

ALL = Wanted((0, 2), logits=True)
FULL = 28


class Counted(OnlineTeacher):
    """A teacher that remembers what it was asked about, batch by batch."""

    def __init__(self, vlm):
        super().__init__(vlm)
        self.asked = []

    def signals(self, inputs, wanted):
        self.asked.append(inputs.entry_ids)
        return super().signals(inputs, wanted)


@pytest.fixture
def filling(teacher, haystacks, tmp_path):
    """A function: a teacher with the cache of the six haystacks, which may have been begun."""
    ids = haystacks().inputs.entry_ids

    def begin(folder=tmp_path / "cache", held=ALL, in_step=False):
        reading = {"entries": {"count": 6, "content": "2b"}}
        header = CacheHeader({}, reading, held, "teacher", entries_per_shard=1)
        store = SignalStore.begin(folder, header)
        store.keep_teacher(teacher.hf.config.save_pretrained)
        online = Counted(teacher)
        return FillingTeacher(store, online, ids, store.unfinished(), in_step), online, store

    return begin


def equal(one, other):
    assert torch.equal(one.logits_NV, other.logits_NV)
    for layer in ALL.layers:
        assert torch.equal(one.qk[layer].q, other.qk[layer].q)
        assert torch.equal(one.qk[layer].k, other.qk[layer].k)


def test_each_entry_is_asked_for_once_and_alone(filling, haystacks):
    source, online, store = filling()
    batches = [haystacks(rows=rows).inputs for rows in ([5, 0], [1, 2, 3], [4, 5])]
    first = [source.signals(inputs, ALL) for inputs in batches]
    assert [len(ids) for ids in online.asked] == [1] * 6
    five = haystacks().inputs.entry_ids[:5]
    assert [name for (name,) in online.asked] == [batches[0].entry_ids[0], *five]
    assert is_complete(store.folder)
    for inputs, signals in zip(batches, first, strict=True):
        equal(source.signals(inputs, ALL), signals)
        equal(CachedTeacher(store).signals(inputs, ALL), signals)
    assert len(online.asked) == 6


def test_an_entry_alone_has_the_teachers_own_signals(filling, teacher, haystacks):
    inputs = haystacks(rows=[3]).inputs
    equal(filling()[0].signals(inputs, ALL), teacher.signals(inputs, ALL))


def test_it_stores_all_that_the_cache_holds_and_gives_what_is_wanted(filling, haystacks):
    """A run may ask for less than the one that began the cache."""
    source, _, store = filling()
    inputs = haystacks(rows=[1]).inputs
    found = source.signals(inputs, Wanted((2,)))
    assert list(found.qk) == [2]
    assert found.logits_NV is None
    equal(
        CachedTeacher(store, gaps=store.unfinished()).signals(inputs, ALL),
        source.signals(inputs, ALL),
    )


def test_runs_fill_a_cache_together(filling, haystacks):
    """What one has stored since the other began, the other does not ask for."""
    (one, of_one, store), (two, of_two, _) = filling(), filling()
    inputs = haystacks().inputs
    one.signals(haystacks(rows=[0, 3]).inputs, ALL)
    found = two.signals(inputs, ALL)
    equal(one.signals(inputs, ALL), found)
    assert (len(of_one.asked), len(of_two.asked)) == (2, 4)
    assert is_complete(store.folder)


def test_an_entry_that_is_damaged_is_asked_for_again(filling, haystacks):
    inputs = haystacks().inputs
    source, _, store = filling()
    before = source.signals(inputs, ALL)
    damaged = store.place(4) / "tensors.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    shutil.rmtree(store.place(1))
    again, online, _ = filling()
    equal(again.signals(inputs, ALL), before)
    assert online.asked == [[inputs.entry_ids[at]] for at in (1, 4)]
    assert is_complete(store.folder)


def test_ranks_that_share_a_sharded_teacher_ask_it_equally_often(filling, haystacks):
    """A rank whose entries are all there asks as often as the one that lacks most; alone, never."""
    source, online, _ = filling(in_step=True)
    for _ in range(2):
        source.signals(haystacks(rows=[0, 1]).inputs, ALL)
    assert len(online.asked) == 2


@pytest.mark.parametrize(("error", "code"), [(None, DIED), ("ENOSPC", FULL)])
def test_a_run_that_dies_or_meets_a_full_disk_loses_no_stored_entry(
    filling, haystacks, tmp_path, error, code
):
    """Its next run asks for the others alone, and nothing half-made is taken."""
    inputs, at = haystacks().inputs, 0
    ended = code
    while ended == code:
        folder = tmp_path / str(at)
        ended = in_child(filling, inputs, folder, tmp_path / "operations", at, error)
        source, online, store = filling(folder)
        left = len(store.unfinished())
        source.signals(inputs, ALL)
        assert len(online.asked) == left
        assert is_complete(folder)
        at += 7  # of some 60 operations
    assert ended == 0
    assert at > 28


def in_child(filling, inputs, folder, log, at, error):
    """Fills a cache in a process of its own, with a fault at an operation; gives its exit code."""
    source = filling(folder)[0]
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        inject(str(folder), str(log), at, error)
        source.signals(inputs, ALL)
        code = 0
    except OSError as reason:
        code = reason.errno
    finally:
        os._exit(code)
