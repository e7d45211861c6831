"""Two commands that write to one place at the same moment: none is lost without a word."""

import json
import random
import time
from collections.abc import Callable

from campaign.case import Case, assert_clean, error_of, no_litter
from campaign.scenarios import answers, checkpoints, checkpoints_of
from campaign.world import Place
from command_line.commands import Done

from laid.checkpoints.sharded_checkpoints import read_whole
from laid.evaluation.records import read_records
from laid.vlm.export_marker import check_export

KIND = "races"
SEEDS = range(3)
REFUSED = ("is being written by another process", "exists", "already holds")


def _both(place: Place, one: list[object], two: list[object], seed: int) -> list[Done]:
    """Runs two commands, the second up to half a second after the first."""
    running = [place.start(*one)]
    time.sleep(random.Random(seed).uniform(0, 0.5))
    running.append(place.start(*two))
    done = [each.wait() for each in running]
    for each in done:
        assert each.code in (0, 2), str(each)
        assert_clean(place, each)
        if each.code == 2:
            assert any(word in error_of(each) for word in REFUSED), str(each)
    assert any(each.code == 0 for each in done), str(done[0])
    assert not no_litter(place)
    return done


def _exports(place: Place, seed: int, *more: object) -> None:
    first, last = checkpoints_of(place.world.run)[::3]
    if more:
        assert place.laid("export", "--ckpt_path", first, "--out", "out").code == 0
    words = [["export", "--ckpt_path", path, "--out", "out", *more] for path in (first, last)]
    done = _both(place, *words, seed)
    check_export(place.folder / "out")
    source = json.loads((place.folder / "out" / "laid_export.json").read_text())["source"]
    # What is there is of one that says it was written.
    wrote = [str(path) for path, each in zip((first, last), done, strict=True) if not each.code]
    assert source in wrote
    if not more:
        assert len(wrote) == 1


def _exports_over(place: Place, seed: int) -> None:
    _exports(place, seed, "--overwrite", "true")


def _builds(place: Place, seed: int) -> None:
    words = [
        [
            "data", "build", "--coco_root", place.world.coco, "--out", "out", "--seed", number,
            "--train_entries", 4, "--max_size", 3, "--sizes", "[1, 2]", "--test_per_size", 4,
        ]
        for number in (1, 2)
    ]  # fmt: skip
    done = _both(place, *words, seed)
    assert sorted(each.code for each in done) == [0, 2]
    won = place.copy(place.folder / "out", "won")
    (winner,) = (number for number, each in zip((1, 2), done, strict=True) if not each.code)
    again = [*words[winner - 1]]
    again[again.index("out")] = "again"
    assert place.laid(*again).code == 0
    for path in won.iterdir():
        assert path.read_bytes() == (place.folder / "again" / path.name).read_bytes()


def _fits(place: Place, seed: int) -> None:
    words = ["fit", "--config", place.config(), "--trainer.max_steps", 2]
    done = _both(place, words, words, seed)
    assert [each.code for each in done] == [0, 0], "two runs of a name have two folders"
    one, two = (read_whole(checkpoints(place, name)[-1]) for name in ("run", "run-2"))
    assert one["global_step"] == two["global_step"] == 2


def _resumes(place: Place, seed: int) -> None:
    """One run resumed twice: its checkpoints are whole, and one of them is the last step."""
    words = ["fit", "--config", place.config(), "--trainer.max_steps", 1]
    assert place.laid(*words).code == 0
    again = ["fit", "--ckpt_path", "runs/run", "--trainer.max_steps", 3]
    running = [place.start(*again), place.start(*again)]
    done = [each.wait() for each in running]
    for each in done:
        assert each.code in (0, 2), str(each)
        assert_clean(place, each)
    assert 0 in [each.code for each in done]
    found = [read_whole(path) for path in checkpoints(place)]
    assert max(content["global_step"] for content in found) == 3


def _tests(place: Place, seed: int) -> None:
    words = ["test", "--ckpt_path", place.world.run, "--results", "out"]
    _both(place, words, words, seed)
    text = (place.folder / "out" / "records.jsonl").read_text().splitlines()
    assert len(text) == 1 + len(read_records(place.folder / "out" / "records.jsonl").records)
    place.copy(place.world.tested, "alone")
    assert answers(place) == answers(place, "alone")


def _first_tests(place: Place, seed: int) -> None:
    """Both fill an empty cache."""
    cache = {"LAID_CACHE": str(place.outside / "cache")}
    config = place.config()
    running = [
        place.start("test", "--config", config, "--results", name, environment=cache)
        for name in ("one", "two")
    ]
    for each in running:
        done = each.wait()
        assert done.code == 0, str(done)
    assert answers(place, "one") == answers(place, "two")


def _export_while_read(place: Place, seed: int) -> None:
    """A folder that is tested while it is replaced: old, new or no answers."""
    out = place.copy(place.world.export, "out")
    first = checkpoints_of(place.world.run)[0]
    test = ["test", "--config", place.config(), "--model.student.path", out, "--results", "seen"]
    running = place.start(*test)
    time.sleep(random.Random(seed).uniform(0, 1.5))
    export = place.laid("export", "--ckpt_path", first, "--out", "out", "--overwrite", "true")
    assert export.code == 0, str(export)
    done = running.wait()
    assert done.code in (0, 2), str(done)
    assert_clean(place, done)
    check_export(out)


KINDS: tuple[tuple[str, Callable[[Place, int], None]], ...] = (
    ("two exports", _exports),
    ("two exports over an export", _exports_over),
    ("two builds", _builds),
    ("two fits of one name", _fits),
    ("one run resumed twice", _resumes),
    ("two tests to one folder", _tests),
    ("two first tests fill the cache", _first_tests),
    ("an export is replaced while it is tested", _export_while_read),
)


def _case(name: str, check: Callable[[Place, int], None], seed: int) -> Case:
    sample = (name, seed) == ("two exports", 0)
    return Case(KIND, f"{name}, seed {seed}", lambda place: check(place, seed), sample)


CASES: list[Case] = [_case(name, check, seed) for name, check in KINDS for seed in SEEDS]
