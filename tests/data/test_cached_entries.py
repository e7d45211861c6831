"""Built entries in the cache: those that are built, whatever happens to the files."""

import shutil
import threading

import pytest

from laid.data.coco_index import CocoIndex
from laid.data.haystack_builder import build_entries, cached_entries


@pytest.fixture
def entries_folder(own_cache):
    return own_cache / "entries"


def build_cached(index, **settings):
    given = {"role": "test", "sizes": [5, 10], "per_size": 6} | settings
    return cached_entries(build_entries, index, **given)


def test_cached_entries_are_those_that_are_built(index, entries_folder):
    built = build_entries(index, "test", [5, 10], 6)
    for _ in range(2):
        cached = build_cached(index)
        assert cached[:] == built[:]
        assert cached.cache_files, "mapped from disk"
    build_cached(index, seed=0, needles=(1,))  # the defaults, said aloud
    assert len(list(entries_folder.iterdir())) == 1


def test_another_setting_or_index_is_cached_apart(index, drawn, entries_folder):
    build_cached(index)
    build_cached(index, seed=1)
    build_cached(CocoIndex.load(drawn, "val2017", min_area=0.04))
    assert len(list(entries_folder.iterdir())) == 3


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove", "foreign", "swap"])
def test_damaged_cached_entries_are_built_again(index, entries_folder, harm, logged):
    before = build_cached(index)[:]
    (data,) = entries_folder.glob("*/*.arrow")
    content = bytearray(data.read_bytes())
    data.unlink()
    if harm == "truncate":
        data.write_bytes(content[: len(content) // 2])
    elif harm == "flip":
        at = content.index(b"val2017/")
        content[at] ^= 1
        data.write_bytes(content)
    elif harm == "foreign":
        data.write_bytes(content)
        (data.parent / "manifest.json").write_text("{}")
    elif harm == "swap":  # whole, but made with another seed
        build_cached(index, seed=1)
        (other,) = set(entries_folder.iterdir()) - {data.parent}
        shutil.rmtree(data.parent)
        other.rename(data.parent)
    assert build_cached(index)[:] == before
    assert len([message for message in logged if "is made again" in message]) == 1


def test_processes_that_race_for_the_cache_get_the_same_entries(index, entries_folder):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(build_cached(index)[:])) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert results[0] == results[1] == results[2]
    assert len(list(entries_folder.iterdir())) == 1


def test_a_setting_the_builder_does_not_know_is_refused(index, entries_folder):
    with pytest.raises(TypeError, match="colour"):
        build_cached(index, colour="red")
