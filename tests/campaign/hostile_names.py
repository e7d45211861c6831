"""Names, lists and caches that were made to run code, to fake output or to remove files."""

import json
from collections.abc import Callable

import numpy as np
from campaign.case import Case, assert_clean, error_of, refusal
from campaign.hostile_models import edit
from campaign.pickles import Touch, pickled
from campaign.world import Place, tree

KIND = "hostile names and data"


def _poisoned_cache(place: Place) -> None:
    """The index of a COCO in the cache, with a pickle in it: made again, and not unpickled."""
    cache = {"LAID_CACHE": str(place.outside / "cache")}
    words = ["test", "--config", place.config(), "--results"]
    assert place.laid(*words, "one", environment=cache).code == 0
    for path in (place.outside / "cache" / "coco").glob("*.npz"):
        np.savez(path, **dict.fromkeys(("files", "cells"), np.array([Touch(place.marker)], object)))
    for path in (place.outside / "cache" / "entries").rglob("*.json"):
        path.write_bytes(pickled(place))
    done = place.laid(*words, "two", environment=cache)
    assert done.code == 0, str(done)
    assert_clean(place, done)


def _script_as_source(place: Place) -> list[object]:
    code = f"open({str(place.marker)!r}, 'w')\n"
    folder = place.folder / "data"
    folder.mkdir()
    for name in ("data.py", "dataset.py", "__init__.py"):
        (folder / name).write_text(code)
    source = ("--data.test.source", '["data"]', "--results", "out")
    return ["test", "--config", place.config(), *source]


def _script_file_as_source(place: Place) -> list[object]:
    (place.folder / "data.py").write_text(f"open({str(place.marker)!r}, 'w')\n")
    source = ("--data.test.source", '["data.py"]', "--results", "out")
    return ["test", "--config", place.config(), *source]


NAMES = (
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b2J", "=cmd|' /C calc'!A0", "+1+1", "@SUM(A1)",
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[click](javascript:alert(1))",
    "`rm -rf`", "| a | b |", "a\nb\n# c", "\\input{/etc/passwd}", "$x_1$ & 100% #1 ~ ^",
    "\u202egnp", "$\\frac{$", "x" * 2000, "\\", "%s {0}",
)  # fmt: skip


def _named(name: str) -> Callable[[Place], None]:
    """A report on results with a name that somebody made up."""

    def check(place: Place) -> None:
        folder = place.copy(place.world.tested)
        edit(folder / "results.json", name=name)
        done = place.laid("compare", folder, "--out", "out")
        if done.code == 2:
            error_of(done)
            assert_clean(place, done)
            return
        assert done.code == 0, str(done)
        assert_clean(place, done)
        report = (place.folder / "out" / "report.md").read_text()
        assert not any(f"<{tag}" in report.replace("\\<", "") for tag in ("script", "img"))
        assert "](javascript" not in report.replace("\\]", "")
        for path in (place.folder / "out").glob("*.*"):
            if path.suffix == ".png":
                continue
            text = path.read_text()
            assert not any(c in text for c in "\x1b\x07\x9b\u202e"), path.name
            if path.suffix == ".csv":
                cells = [cell.strip('"') for line in text.splitlines() for cell in line.split(",")]
                wrong = [
                    c for c in cells if c[:1] in ("=", "@") or (c[:1] == "+" and c[1:2] == "1")
                ]
                assert not wrong, f"{path.name}: {wrong}"
            if path.suffix == ".tex":
                assert "\\input{" not in text

    return check


def _crafted_question(place: Place) -> None:
    """Questions and ids with escape codes reach no terminal."""
    rows = json.loads(place.world.questions.read_text())
    for number, row in enumerate(rows):
        row["conversations"][0]["value"] = f"Is there \x1b[2J\x1b]0;x\x07 a dog {number}?"
        row["laid"]["id"] = f"\x1b[31m{number}"
    (place.folder / "q.json").write_text(json.dumps(rows))
    words = ["--config", place.config(), "--results", "out"]
    for command, key in (("predict", "data.predict.source"), ("test", "data.test.source")):
        value = "q.json" if command == "predict" else '["q.json"]'
        done = place.laid(command, *words, f"--{key}", value)
        assert done.code in (0, 2), str(done)
        assert_clean(place, done)


def _marker_names_outside(place: Place) -> None:
    """An export's list that names files outside it: they are neither read nor removed."""
    out = place.copy(place.world.export, "out")
    (place.folder / "thesis.tex").write_text("years of work")
    path = out / "laid_export.json"
    content = json.loads(path.read_text())
    content["sha256"]["../thesis.tex"] = "0" * 64
    path.write_text(json.dumps(content))
    before = tree(place.folder)
    done = place.laid(
        "export", "--ckpt_path", place.world.run, "--out", "out", "--overwrite", "true"
    )
    assert (place.folder / "thesis.tex").read_text() == "years of work"
    assert done.code == 2, str(done)
    assert tree(place.folder) == before


def _overwrites(what: str) -> Callable[[Place], list[object]]:
    """``--overwrite`` of what is no export of laid."""

    def prepare(place: Place) -> list[object]:
        run = place.copy(place.world.run, "runs/run")
        thesis = place.folder / "thesis"
        thesis.mkdir()
        (thesis / "1.tex").write_text("years of work")
        exported = place.copy(place.world.export, "exported")
        (exported / "notes.md").write_text("mine")
        place.copy(place.world.export / "laid_export.json", "runs/laid_export.json")
        (place.folder / "link").symlink_to(thesis)
        targets = {
            "a folder": thesis, "a file": thesis / "1.tex", "the run": run, "all runs": run.parent,
            "here": place.folder, "the checkpoints": run / "checkpoints", "a link": "link",
            "the root": "/", "an export with a file besides": exported, "home": "~",
            "above here": "..", "the checkpoint": run / "checkpoints" / "step=4.ckpt",
        }  # fmt: skip
        return ["export", "--ckpt_path", run, "--out", targets[what], "--overwrite", "true"]

    return prepare


_TARGETS = (
    "a folder", "a file", "the run", "all runs", "here", "the checkpoints", "a link", "the root",
    "an export with a file besides", "home", "above here", "the checkpoint",
)  # fmt: skip

CASES: list[Case] = [
    Case(KIND, "a pickle in the cache", _poisoned_cache),
    refusal(KIND, "a folder of scripts as a data set", _script_as_source, "data"),
    refusal(KIND, "a script as a data set", _script_file_as_source, "data.py"),
    *(
        Case(KIND, f"results named {name!r}", _named(name), sample=name.startswith("=cmd"))
        for name in NAMES
    ),
    Case(KIND, "questions with escape codes", _crafted_question),
    Case(KIND, "an export's list that names other files", _marker_names_outside),
    *(
        refusal(KIND, f"export over {what}", _overwrites(what), "is not replaced")
        for what in _TARGETS
    ),
]
