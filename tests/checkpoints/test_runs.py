"""Run folders."""

import os
from concurrent.futures import ThreadPoolExecutor
from inspect import signature

import pytest
from checkpoints.conftest import write_file, write_folder

from laid.checkpoints.runs import (
    Found,
    claim_run,
    find_checkpoint,
    next_fit,
    remove_failed_run,
    training_of,
)
from laid.common.atomic_files import leftovers, replacing
from laid.common.logging_setup import set_up_logging
from laid.data.datamodule import HaystackDataModule


def write_checkpoint(run, step, name="step={}", **identity):
    return write_file(run / "checkpoints" / f"{name.format(step)}.ckpt", step, **identity)


def test_runs_that_begin_at_once_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: claim_run(tmp_path, "tiny"), range(8)))
    assert {f.name for f in folders} == {"tiny", *(f"tiny-{n}" for n in range(2, 9))}


def test_a_run_that_failed_at_its_start_leaves_no_folder_and_one_with_a_checkpoint_stays(tmp_path):
    empty, full = claim_run(tmp_path, "a"), claim_run(tmp_path, "b")
    write_checkpoint(full, 3)
    remove_failed_run(empty)
    remove_failed_run(full)
    assert not empty.exists()
    assert full.exists()


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b"])
def test_a_name_that_is_no_folders_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="expected the name of a folder"):
        claim_run(tmp_path, name)


def test_the_newest_checkpoint_is_that_of_the_highest_step_whatever_the_files_times(tmp_path):
    run = tmp_path / "tiny"
    for step in (2, 10, 9):
        write_checkpoint(run, step)
    os.utime(run / "checkpoints" / "step=2.ckpt", (2e9, 2e9))
    assert find_checkpoint(str(run), tmp_path).identity["step"] == 10
    assert find_checkpoint("last", tmp_path).identity["step"] == 10
    assert find_checkpoint("last", tmp_path, "tiny").run == run
    with pytest.raises(ValueError, match="no checkpoint of a run named 'other'"):
        find_checkpoint("last", tmp_path, "other")


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_the_newest_is_of_the_branch_that_was_trained_last(tmp_path, write):
    """Resumed from step 4 of 10, whatever the files' times and names."""
    run = tmp_path / "tiny"
    for step in (2, 4, 6, 8, 10):
        write(run / "checkpoints" / f"step={step}.ckpt", step, fit=0)
    write(run / "checkpoints" / "step=6-v1.ckpt", 6, fit=1)
    for path in run.glob("checkpoints/step=10*"):
        os.utime(path, (4e9, 4e9))
    found = find_checkpoint(str(run), tmp_path)
    assert found.path.name == "step=6-v1.ckpt"
    assert find_checkpoint("last", tmp_path).path == found.path
    assert next_fit(run / "checkpoints") == 2
    write(run / "checkpoints" / "later.ckpt", 7, fit=2)
    assert find_checkpoint(str(run), tmp_path).path.name == "later.ckpt"
    assert next_fit(tmp_path / "empty" / "checkpoints") == 0


def trained(tmp_path, **changes):
    data = {"global_batch_size": 8, "workers": 0, "test": {"sizes": [1]}}
    config = {
        "name": "laid",
        "seed_everything": 3,
        "model": {"objective": {"kl": 0.3}},
        "data": data | changes.pop("data", {}),
        "trainer": {"max_epochs": 2, "devices": 4},
        **changes,
    }
    found = Found(tmp_path / "laid-2" / "checkpoints" / "c.ckpt", tmp_path / "laid-2", config, {})
    return training_of(found, tmp_path / "results", without=HaystackDataModule.NOT_LEARNED)


def test_results_say_what_was_trained_and_where(tmp_path):
    training = trained(tmp_path)
    assert (training.name, training.seed) == ("laid", 3)
    assert training.run == "../laid-2"
    assert training.settings["model"] == {"objective": {"kl": 0.3}}


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"seed_everything": 4}, True),
        ({"name": "other"}, True),
        ({"data": {"workers": 8, "test": {"sizes": [50]}}}, True),
        ({"trainer": {"max_epochs": 2, "devices": 1}}, True),
        ({"trainer": {"max_epochs": 3, "devices": 4}}, False),
        ({"data": {"global_batch_size": 32}}, False),
        ({"model": {"objective": {"kl": 0.0}}}, False),
    ],
)
def test_its_settings_are_those_that_decide_what_is_learned(tmp_path, changes, same):
    assert (trained(tmp_path, **changes).settings == trained(tmp_path).settings) == same


def test_every_setting_of_the_data_is_learned_from_or_not():
    settings = set(signature(HaystackDataModule.__init__).parameters) - {"self"}
    learned, not_learned = HaystackDataModule.LEARNED, HaystackDataModule.NOT_LEARNED
    assert set(learned) | set(not_learned) == settings
    assert len(learned) + len(not_learned) == len(settings)


def test_a_seed_that_was_not_set_is_not_known(tmp_path):
    assert trained(tmp_path, seed_everything=True).seed is None


def test_a_damaged_newest_checkpoint_is_passed_over_and_said(tmp_path, capsys):
    run = tmp_path / "tiny"
    write_checkpoint(run, 2)
    set_up_logging()
    damaged = write_checkpoint(run, 4)
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert find_checkpoint(str(run), tmp_path).identity["step"] == 2
    assert "step=4.ckpt cannot be read" in capsys.readouterr().err
    with pytest.raises(ValueError, match="cannot be read"):
        find_checkpoint(str(damaged), tmp_path)


def test_a_file_that_is_replaced_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "step=1.ckpt"
    path.write_bytes(b"old")

    def fail():
        with replacing(path) as file:
            file.write(b"half")
            assert len(list(tmp_path.glob(".*.tmp"))) == 1
            assert leftovers(tmp_path) == []  # its process lives
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
