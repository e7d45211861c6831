"""``laid cache``, into an empty folder and over a damaged shard."""

from campaign.world import Place

from laid.teacher_cache.signal_store import SignalStore


def signals(place: Place) -> list[object]:
    return ["cache", "--config", place.config(), "--out", "out"]


def signals_over(place: Place) -> list[object]:
    done = place.laid(*signals(place))
    assert done.code == 0, str(done)
    (place.folder / "out" / "shards" / "00000" / "tensors.safetensors").write_bytes(b"torn")
    return signals(place)


def shards_are_whole(place: Place) -> None:
    if (place.folder / "out" / "cache.json").exists():
        store = SignalStore.open(place.folder / "out")
        assert set(store.unfinished()) <= {0}
