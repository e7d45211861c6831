"""A cache's folder: what is missing, damaged or of another cache is known and made again."""

import os
import shutil
from dataclasses import replace

import pytest
import torch
from stored_entries import HEADER, IDS, entry, filled, new_store

from laid.common.errors import UserError
from laid.signals.model_signals import Wanted
from laid.teacher_cache.shard_filling import ShardFilling
from laid.teacher_cache.signal_store import SignalStore


@pytest.fixture
def store(tmp_path):
    """An empty cache of five entries, in three shards."""
    return new_store(tmp_path / "cache")


def test_what_is_read_is_what_was_written_wherever_the_folder_is_moved(store, tmp_path):
    assert filled(store) == [0, 1, 2, 3, 4]
    shutil.move(store.folder, tmp_path / "elsewhere")
    moved = SignalStore.open(tmp_path / "elsewhere")
    moved.check_whole()
    assert [name for n in moved.shards for name in moved.tokens(n)] == IDS
    for at in range(5):
        found, (ours, _) = moved.read(at // 2, at % 2, HEADER.wanted).signals, entry(at)
        assert torch.equal(found.logits_NV, ours.logits_NV)
        for layer, qk in ours.qk.items():
            assert torch.equal(found.qk[layer].q, qk.q[0])
            assert torch.equal(found.qk[layer].k, qk.k[0])


def test_only_what_is_wanted_is_read(store):
    filled(store)
    found = store.read(0, 0, Wanted((3,))).signals
    assert list(found.qk) == [3]
    assert found.logits_NV is None


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "a bit": lambda place: flip(place / "tensors.safetensors"),
    "half a file": lambda place: (place / "tensors.safetensors").write_bytes(
        (place / "tensors.safetensors").read_bytes()[:100]
    ),
    "a file gone": lambda place: (place / "index.json").unlink(),
    "an empty folder": lambda place: (shutil.rmtree(place), place.mkdir()),
    "a shard in another's place": lambda place: (
        shutil.rmtree(place),
        shutil.copytree(place.with_name("00000"), place),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_shard_is_named_and_made_again_and_no_other(store, damage):
    filled(store)
    damage(store.place(1))
    with pytest.raises(UserError, match=r"1 of 4 parts of the cache .*shards/00001 \(damaged\)"):
        store.check_whole()
    assert filled(store) == [2, 3]
    store.check_whole()
    found = store.read(1, 0, Wanted((1,))).signals.qk[1].q
    assert torch.equal(found, entry(2)[0].qk[1].q[0])


def test_a_shard_of_another_cache_is_not_taken(store, tmp_path):
    other = SignalStore.begin(tmp_path / "other", replace(HEADER, teacher={"weights": "9f"}))
    for cache in (store, other):
        filled(cache)
    shutil.rmtree(store.place(2))
    shutil.copytree(other.place(2), store.place(2))
    assert store.unfinished() == [2]
    assert filled(store) == [4]
    store.check_whole()


def test_the_teachers_configuration_is_checked_too(store):
    filled(store)
    flip(store.teacher / "config.json")
    with pytest.raises(UserError, match=r"the first teacher \(damaged\)"):
        store.check_whole()


def test_what_a_dead_writer_left_is_removed(store):
    shards = store.folder / "shards"
    dead = [
        shards / f".00000{kind}.nowhere-1-{'0' * 32}.tmp" for kind in (".claim", "")
    ]  # of another machine, a day ago
    dead[0].touch()
    dead[1].mkdir()
    for path in dead:
        os.utime(path, (0, 0))
    assert filled(store) == [0, 1, 2, 3, 4]
    assert sorted(path.name for path in shards.iterdir()) == ["00000", "00001", "00002"]


def test_two_processes_share_what_is_missing(store):
    """Each passes over what the other writes or has written."""
    one, two = (ShardFilling(store, IDS, [0, 1, 2], 0, 1) for _ in range(2))
    first, second = iter(one), iter(two)
    of_one, of_two = [next(first)], [next(second)]
    assert (of_one, of_two) == ([0], [2])
    for filling, order, mine in ((one, first, of_one), (two, second, of_two)):
        filling.add(entry(mine[0])[1])
        for at in order:
            mine.append(at)
            filling.add(entry(at)[1])
        filling.close()
    assert (of_one, of_two) == ([0, 1, 4], [2, 3])
    assert (one.left, two.left) == ([1], [0])
    store.check_whole()


def test_ranks_of_a_run_take_equally_many_entries(store):
    by_rank = [filled(store, [0, 1, 2], rank, 2) for rank in range(2)]
    assert by_rank == [[0, 1, 4], [2, 3, ~0]]
    store.check_whole()


def test_a_folder_that_is_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty and no cache \(it holds notes.txt\)"):
        SignalStore.begin(tmp_path, HEADER)
    with pytest.raises(UserError, match=r"it has no cache\.json"):
        SignalStore.open(tmp_path)
    with pytest.raises(UserError, match=r"notes\.txt is a file: name a folder"):
        SignalStore.begin(tmp_path / "notes.txt", HEADER)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_torn_header_is_made_again_and_the_shards_stay(store):
    filled(store)
    header = store.folder / "cache.json"
    whole = header.read_text()
    header.write_text(whole.replace('"count": 5', '"count": "five"'))
    with pytest.raises(UserError, match=r"reading\.entries\.count is 'five', expected a number"):
        SignalStore.open(store.folder)
    header.write_text(whole[:50])
    with pytest.raises(UserError, match=r"cache\.json .*Remove it and run `laid cache`"):
        new_store(store.folder)
    header.unlink()
    new_store(store.folder).check_whole()
