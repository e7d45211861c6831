"""One bit that has flipped in a file: found, made again, or without effect."""

import json
import random
from collections.abc import Callable
from pathlib import Path

from campaign.case import Case, assert_clean
from campaign.scenarios import answers, same_state
from campaign.world import Place

from laid.checkpoints.sharded_checkpoints import read_whole
from laid.vlm.export_marker import check_export

KIND = "flipped bits"
SEEDS = range(5)


def flip(path: Path, draw: random.Random, window: tuple[float, float] = (0, 1)) -> None:
    """Flips one bit of a file, within a part of it."""
    content = bytearray(path.read_bytes())
    at = int(len(content) * draw.uniform(*window))
    content[min(at, len(content) - 1)] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def _as_expected(place: Place, words: list[object], mention: str) -> None:
    """Refused, or the same answers as without the damage."""
    done = place.laid(*words, "--results", "out")
    assert done.code in (0, 2), str(done)
    assert_clean(place, done)
    if done.code == 2:
        assert mention in done.err, str(done)
        return
    place.copy(place.world.tested, "expected")
    assert answers(place)[0] == answers(place, "expected")[0]


def _checkpoint(place: Place, draw: random.Random) -> None:
    path = place.copy(place.world.run / "checkpoints" / "step=4.ckpt")
    flip(path, draw)
    _as_expected(place, ["test", "--ckpt_path", path], "cannot be read")


def _resumed(place: Place, draw: random.Random) -> None:
    path = place.copy(
        place.world.run / "checkpoints" / "step=2.ckpt", "runs/run/checkpoints/step=2.ckpt"
    )
    flip(path, draw)
    done = place.laid("fit", "--ckpt_path", path, "--trainer.max_steps", 4)
    assert done.code in (0, 2), str(done)
    assert_clean(place, done)
    if done.code == 2:
        assert "cannot be read" in done.err, str(done)
        return
    found = read_whole(path.with_name("step=4.ckpt"))
    expected = read_whole(place.world.run / "checkpoints" / "step=4.ckpt")
    assert same_state(found["state_dict"], expected["state_dict"])


def _exporting(place: Place, draw: random.Random) -> None:
    path = place.copy(place.world.run / "checkpoints" / "step=4.ckpt")
    flip(path, draw)
    done = place.laid("export", "--ckpt_path", path, "--out", "out")
    assert_clean(place, done)
    if done.code == 2:
        assert "cannot be read" in done.err, str(done)
        assert not (place.folder / "out").exists()
        return
    assert done.code == 0, str(done)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        one, two = (folder / name for folder in (place.folder / "out", place.world.export))
        assert one.read_bytes() == two.read_bytes()


def _newest(place: Place, draw: random.Random) -> None:
    """A run whose newest checkpoint's description is damaged: the one before, and it is said."""
    run = place.copy(place.world.run, "runs/run")
    path = run / "checkpoints" / "step=4.ckpt"
    path.write_bytes(path.read_bytes()[: draw.randrange(10, 5000)])
    done = place.laid("test", "--ckpt_path", run, "--results", "out")
    assert done.code == 0, str(done)
    assert "step=4.ckpt cannot be read" in done.said
    assert "step=3.ckpt" in done.said


def _shard(place: Place, draw: random.Random) -> None:
    path = place.copy(place.world.sharded / "checkpoints" / "step=2.ckpt")
    files = sorted(path.iterdir())
    flip(draw.choice(files), draw)
    done = place.laid("export", "--ckpt_path", path, "--out", "out")
    assert_clean(place, done)
    assert done.code in (0, 2), str(done)
    if done.code == 2:
        assert "cannot be read" in done.err, str(done)
        return
    again = place.laid(
        "export",
        "--ckpt_path",
        place.world.sharded / "checkpoints" / "step=2.ckpt",
        "--out",
        "whole",
    )
    assert again.code == 0
    one, two = (place.folder / name / "model.safetensors" for name in ("out", "whole"))
    assert one.read_bytes() == two.read_bytes()


def _export(place: Place, draw: random.Random) -> None:
    folder = place.copy(place.world.export)
    names = sorted(json.loads((folder / "laid_export.json").read_text())["sha256"])
    names.remove("README.md")  # which people complete
    flip(folder / draw.choice(names), draw)
    config = place.config({"model.student.path": str(folder)})
    done = place.laid("test", "--config", config, "--results", "out")
    assert done.code == 2, str(done)
    assert_clean(place, done)
    # A configuration that is no JSON any more is refused before it is compared.
    assert "is damaged" in done.err or "cannot load" in done.err, str(done)


def _marker(place: Place, draw: random.Random) -> None:
    """The export's own list of checksums: refused, or no longer taken for an export of laid."""
    folder = place.copy(place.world.export)
    flip(folder / "laid_export.json", draw)
    done = place.laid(
        "export", "--ckpt_path", place.world.run, "--out", folder, "--overwrite", "true"
    )
    assert done.code in (0, 2), str(done)
    assert_clean(place, done)
    if done.code == 0:
        check_export(folder)


def _weights(place: Place, draw: random.Random) -> None:
    """A hub's own file, without checksums: refused or read, but no traceback."""
    folder = place.copy(place.world.student, "student")
    flip(folder / "model.safetensors", draw, (0, 0.002))
    config = place.config({"model.student.path": str(folder)})
    done = place.laid("test", "--config", config, "--results", "out")
    assert done.code in (0, 2), str(done)
    assert_clean(place, done)


def _cache(pattern: str) -> Callable[[Place, random.Random], None]:
    """A damaged cache is made again: the same answers."""

    def check(place: Place, draw: random.Random) -> None:
        cache = {"LAID_CACHE": str(place.outside / "cache")}
        words = ["test", "--config", place.config(), "--results"]
        assert place.laid(*words, "one", environment=cache).code == 0
        files = sorted(p for p in (place.outside / "cache").glob(pattern) if p.is_file())
        assert files
        flip(draw.choice(files), draw)
        done = place.laid(*words, "two", environment=cache)
        assert done.code == 0, str(done)
        assert_clean(place, done)
        assert answers(place, "one") == answers(place, "two")

    return check


def _results(place: Place, draw: random.Random) -> None:
    """Results that were changed: refused, or compared without a traceback."""
    folder = place.copy(place.world.tested)
    flip(folder / "results.json", draw)
    done = place.laid("compare", folder, "--out", "out")
    assert done.code in (0, 2), str(done)
    assert_clean(place, done)


FILES: tuple[tuple[str, Callable[[Place, random.Random], None]], ...] = (
    ("a checkpoint that is tested", _checkpoint),
    ("a checkpoint that is resumed", _resumed),
    ("a checkpoint that is exported", _exporting),
    ("a cut checkpoint, the newest of its run", _newest),
    ("a sharded checkpoint", _shard),
    ("an export that is tested", _export),
    ("an export's list of files", _marker),
    ("weights from elsewhere", _weights),
    ("the index of a COCO", _cache("coco/*")),
    ("built entries", _cache("entries/*/*")),
    ("results", _results),
)


def _case(name: str, check: Callable[[Place, random.Random], None], seed: int) -> Case:
    sample = (name, seed) == ("a checkpoint that is tested", 0)
    draw = f"{name} {seed}"
    return Case(
        KIND, f"{name}, seed {seed}", lambda place: check(place, random.Random(draw)), sample
    )


CASES: list[Case] = [_case(name, check, seed) for name, check in FILES for seed in SEEDS]
