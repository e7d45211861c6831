"""``laid export`` replaces an export of laid and nothing else, and loses neither old nor new."""

import os
import shutil
import subprocess
import sys
import textwrap

import pytest
from command_line.commands import environment
from safetensors.torch import load_file

from laid.cli.export_command import export
from laid.common.atomic_files import only_writer
from laid.vlm.export_marker import MARKER, check_export


@pytest.fixture(scope="module")
def run(laid, config, work):
    """A run with checkpoints of two steps."""
    laid(
        "fit", "--config", config, "--name", "source", "--trainer.max_steps", 2,
        "--head_flow.enabled", "false", "--trainer.limit_val_batches", 0,
    )  # fmt: skip
    return work / "runs" / "source"


@pytest.fixture
def in_work(work, monkeypatch):
    monkeypatch.chdir(work)
    return work


def files(folder):
    """Every file below a folder with its content."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "what", ["a folder", "a file", "a run", "all runs", "here", "home of here"]
)
def test_what_is_no_export_is_not_replaced(run, in_work, tmp_path, what, monkeypatch):
    thesis = tmp_path / "thesis"
    (thesis / "chapters").mkdir(parents=True)
    (thesis / "chapters" / "1.tex").write_text("years of work")
    monkeypatch.setitem(
        places := {},
        what,
        {
            "a folder": thesis,
            "a file": thesis / "chapters" / "1.tex",
            "a run": run,
            "all runs": run.parent,
            "here": thesis / "chapters",
            "home of here": thesis,
        }[what],
    )
    if "here" in what:
        monkeypatch.chdir(thesis / "chapters")
    before = {**files(thesis), **files(run)}
    with pytest.raises(ValueError, match="is not replaced"):
        export(str(run), str(places[what]), overwrite=True)
    assert {**files(thesis), **files(run)} == before


def test_an_export_is_replaced_unless_it_holds_something_else(run, in_work, tmp_path):
    out = tmp_path / "out"
    first = run / "checkpoints" / "step=1.ckpt"
    export(str(first), str(out))
    old = load_file(out / "model.safetensors")
    with pytest.raises(ValueError, match="exists: name another folder"):
        export(str(run), str(out))
    (out / "notes.md").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.md in it is not of the export"):
        export(str(run), str(out), overwrite=True)
    os.rename(out / "notes.md", tmp_path / "notes.md")
    export(str(run), str(out), overwrite=True)
    new = load_file(out / "model.safetensors")
    assert any((new[key] != old[key]).any() for key in old)
    check_export(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.md", "out"]


def test_a_marker_does_not_make_a_run_an_export(run, in_work, tmp_path):
    export(str(run), str(tmp_path / "out"))
    shutil.copytree(run, tmp_path / "run")
    shutil.copy(tmp_path / "out" / MARKER, tmp_path / "run")
    with pytest.raises(ValueError, match="is not replaced"):
        export(str(run), str(tmp_path / "run"), overwrite=True)


DYING = """
import os, sys

def dies():
    left = int(sys.argv[1])
    def counted(function):
        def call(*args, **kwargs):
            nonlocal left
            if left == 0:
                os._exit(77)
            left -= 1
            return function(*args, **kwargs)
        return call
    for name in ("rename", "replace", "unlink", "rmdir", "fsync"):
        setattr(os, name, counted(getattr(os, name)))

from laid.cli.export_command import export
import laid.cli.export_command as command

made = command.mark_export
def marked(*args):
    made(*args)
    dies()  # all that decides is after this

command.mark_export = marked
export(sys.argv[2], sys.argv[3], overwrite=True)
"""


@pytest.mark.slow
def test_killed_at_any_point_the_old_or_the_new_export_is_whole(run, in_work, tmp_path):
    out, first = tmp_path / "out", run / "checkpoints" / "step=1.ckpt"
    export(str(first), str(out))
    old = files(out)
    seen = set()
    for at in (0, 8, 14, 40):
        shutil.rmtree(out)
        export(str(first), str(out))
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(DYING), str(at), str(run), str(out)],
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode in (0, 77), done.stderr
        check_export(out)
        seen.add("old" if files(out) == old else "new")
    assert seen == {"old", "new"}
    assert done.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_of_two_exports_to_one_folder_the_second_is_refused(laid, start, run, tmp_path):
    options = ("--ckpt_path", run, "--out", tmp_path / "out")
    both = [start("export", *options) for _ in range(2)]
    first, second = sorted((process.wait() for process in both), key=lambda done: done.code)
    assert (first.code, second.code) == (0, 2)
    assert "is being written by another process" in second.err or "exists" in second.err
    check_export(tmp_path / "out")
    with only_writer(tmp_path / "out"):  # as while the first is at work
        done = laid("export", *options, "--overwrite", "true", code=2)
    assert f"is being written by another process, {os.getpid()} on" in done.err


def test_of_two_builds_to_one_folder_the_second_is_refused(laid, drawn, tmp_path):
    with only_writer(tmp_path / "out"):
        done = laid("data", "build", "--coco_root", drawn, "--out", tmp_path / "out", code=2)
    assert "is being written by another process" in done.err
    assert list(tmp_path.iterdir()) == []
