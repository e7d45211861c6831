"""A cache of a teacher's signals on the hub: what would go up, and that it is read from there."""

import re
import shutil

import pytest
from huggingface_hub import constants, metadata_load

from laid.common.errors import UserError
from laid.common.tensor_shards import Item
from laid.sharing.cache_push import push_cache
from laid.signals.model_signals import Wanted
from laid.teacher_cache.hub_cache import hub_cache
from laid.teacher_cache.signal_store import CacheHeader, SignalStore


@pytest.fixture
def store(tmp_path):
    """A cache of three entries in two shards, with nothing of each."""
    reading = {"entries": {"count": 3, "content": "2b"}}
    header = CacheHeader({"path": "some/teacher"}, reading, Wanted((1,)), "int8", 2)
    store = SignalStore.begin(tmp_path / "cache", header)
    store.keep_teacher(lambda new: (new / "config.json").write_text("{}"))
    for shard in store.shards:
        store.write(shard, [Item(f"entry-{at}", (9,), {}) for at in store.entries_of(shard)])
    return store


def test_a_dry_run_lists_the_parts_and_sends_nothing(store, capsys):
    (store.folder / "shards" / ".00000.elsewhere-1-0.tmp").mkdir()
    (store.folder / "notes.txt").write_text("mine")
    push_cache(str(store.folder), "me/signals", dry_run=True)
    listed = dict(re.findall(r"^(\S+) +([\d,]+)$", capsys.readouterr().out, re.M))
    files = {"index.json", "manifest.json", "tensors.safetensors"}
    assert listed.keys() == {
        *("README.md", "cache.json", "teacher/config.json", "teacher/manifest.json"),
        *(f"shards/{shard}/{name}" for shard in ("00000", "00001") for name in files),
    }
    card = (store.folder / "README.md").read_text()
    assert "some/teacher says of 3 training entries" in card
    assert metadata_load(store.folder / "README.md")["viewer"] is False


@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_a_cache_with_a_gap_is_not_pushed(store, fault, capsys):
    if fault == "missing":
        shutil.rmtree(store.place(1))
    else:
        (store.place(1) / "tensors.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=rf"1 of 3 parts .*shards/00001 \({fault}\)"):
        push_cache(str(store.folder), "me/signals", dry_run=True)
    with pytest.raises(UserError, match=r"expected USER/NAME"):
        push_cache(str(store.folder), "signals")
    assert not (store.folder / "README.md").exists()
    assert "shards" not in capsys.readouterr().out


def test_it_is_read_as_the_hub_keeps_it(store, tmp_path, monkeypatch):
    """In a snapshot of links; whole or refused, as a folder is."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for local in (True, False):
        with pytest.raises(UserError, match=r"cannot download the cache hf://me/signals"):
            hub_cache("hf://me/signals", local_files_only=local)
    home, commit = tmp_path / "hub" / "datasets--me--signals", "0" * 40
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    (home / "blobs").mkdir()
    for n, path in enumerate(sorted(p for p in store.folder.rglob("*") if p.is_file())):
        link = home / "snapshots" / commit / path.relative_to(store.folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(shutil.copy(path, home / "blobs" / f"{n:040x}"))
    for name in ("hf://me/signals", f"hf://me/signals@{commit}"):
        found = SignalStore.open(hub_cache(name, local_files_only=True))
        assert found.header == store.header
        found.check_whole()
    (found.place(1) / "tensors.safetensors").resolve().write_bytes(b"torn")
    with pytest.raises(UserError, match=r"shards/00001 \(damaged\)"):
        found.check_whole()
