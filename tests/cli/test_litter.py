"""A command that is refused, or that a full disk ends, leaves everything as it was."""

import resource
import shutil

import pytest
from cli.conftest import states

QUICK = ("--head_flow.enabled", "false", "--trainer.limit_val_batches", 0, "--data.workers", 0)


def content(folder):
    """Every file and folder below a folder, files with their content."""
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture(scope="module")
def two_steps(laid, config, work):
    """A run of two steps."""
    laid("fit", "--config", config, "--name", "two", *QUICK, "--trainer.max_steps", 2)
    return work / "runs" / "two"


REFUSED = {
    "nothing left to train": ("fit",),
    "an unknown metric": ("fit", "--trainer.max_steps", 4, "--checkpoint.monitor", "train/los"),
    "no interval": ("fit", "--trainer.max_steps", 4, "--trainer.val_check_interval", 0),
    "too long an interval": (
        "fit", "--trainer.max_steps", 4, "--trainer.val_check_interval", 5000,
        "--trainer.limit_val_batches", 1,
    ),
    "other weights": ("fit", "--trainer.max_steps", 4, "--model.lora.rank", 2),
    "too long entries": ("test", "--data.max_length", 5),
    "no images": ("validate", "--data.coco_root", "nowhere"),
    "an unknown split": ("test", "--data.test.split", "test1999"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_leaves_a_run_as_it_was(run, two_steps, work, what):
    def found():
        return content(two_steps), states(work / "runs"), set((work / "runs").rglob("*"))

    command, *options = REFUSED[what]
    before = found()
    code, _ = run(command, "--ckpt_path", two_steps, *options)
    assert code == 2
    assert found() == before


@pytest.mark.parametrize("command", ["fit", "test", "validate"])
def test_what_is_refused_makes_no_folder(run, config, work, command):
    before = set(work.rglob("*"))
    code, _ = run(command, "--config", config, "--name", "never", "--data.max_length", 5)
    assert code == 2
    assert set(work.rglob("*")) - before <= {work / "runs"}


@pytest.fixture
def full_disk():
    """Sets the largest size of a file, in bytes, which a write fails at as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def at(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield at
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("command", ["fit", "resume", "export", "export again", "test", "build"])
def test_a_full_disk_is_one_line_and_loses_nothing(
    run, two_steps, config, drawn, tmp_path, full_disk, command
):
    folder, out = shutil.copytree(two_steps, tmp_path / "runs" / "run"), tmp_path / "out"
    words, size = {
        "fit": (("fit", "--config", config, *QUICK, "--name", "full"), 100_000),
        "resume": (("fit", "--ckpt_path", folder, "--trainer.max_steps", 4), 100_000),
        "export": (("export", "--ckpt_path", folder, "--out", out), 100_000),
        "export again": (
            ("export", "--ckpt_path", folder, "--out", out, "--overwrite", "true"), 100_000
        ),
        "test": (("test", "--ckpt_path", folder, "--results", out), 1000),
        "build": (("data", "build", "--coco_root", drawn, "--out", out, "--sizes", "[]"), 1000),
    }[command]  # fmt: skip
    if command in ("fit", "resume"):
        words = (*words, "--trainer.default_root_dir", tmp_path / "runs")
    if command == "export again":
        assert run("export", "--ckpt_path", folder, "--out", out)[0] == 0
    before = content(tmp_path)
    full_disk(size)
    code, error = run(*words)
    assert code == 2
    assert "File too large" in error.strip().splitlines()[-1]
    after = content(tmp_path)
    assert before.items() <= after.items()
    kept = {path.name for path in after.keys() - before.keys()}
    assert kept <= ({"out", "records.jsonl"} if command == "test" else {"out"})
