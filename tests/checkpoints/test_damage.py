"""A bit that has flipped in a checkpoint or an export is found when it is read."""

import shutil
from functools import partial
from itertools import cycle
from random import Random

import pytest
import torch
from checkpoints.conftest import write_file, write_folder

from laid.checkpoints.checkpoint_files import META
from laid.checkpoints.runs import read_embedded
from laid.checkpoints.sharded_checkpoints import (
    _load_together,
    read_whole,
)
from laid.common.errors import UserError
from laid.vlm.export_marker import MARKER, mark_export
from laid.vlm.model_loading import ModelArgs, load_model


def flat(content, prefix=""):
    """Every value of a nested checkpoint by its keys."""
    found = {}
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        if isinstance(value, dict | list):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def same(one, two):
    one, two = flat(one), flat(two)
    return one.keys() == two.keys() and all(
        torch.equal(value, two[key]) if isinstance(value, torch.Tensor) else value == two[key]
        for key, value in one.items()
    )


def part(content):
    return content["state_dict"]


read_without_optimizer = partial(read_whole, with_optimizer=False)


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        ("file", read_whole),
        ("file", read_without_optimizer),
        ("file", _load_together),
        ("folder", read_whole),
        ("folder", read_without_optimizer),
    ],
)
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path, kind, read):
    """Anywhere: in weights, in the pickle, in what the archive says of itself."""
    write = {"file": write_file, "folder": write_folder}[kind]
    path = write(tmp_path / "step=1.ckpt")
    whole = read(path)
    look = part if read is read_without_optimizer else dict
    refused = {"weights": 0, "all": 0}
    step = 37 if path.is_dir() else 19  # a folder has more bytes
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        content = file.read_bytes()
        weight = part(whole)["student.a"].numpy().tobytes()
        within = content.find(weight)
        places = sorted({*range(0, len(content), step), within + 1, within + 500})
        for at, bit in zip(places, cycle((1, 0x80)), strict=False):
            damaged = bytearray(content)
            damaged[at] ^= bit
            file.write_bytes(damaged)
            try:
                found = read(path)
            except ValueError as error:
                assert "cannot be read" in str(error)  # noqa: PT017
                refused["all"] += 1
                refused["weights"] += 0 <= within <= at < within + len(weight)
            else:
                assert same(look(found), look(whole)), (file.name, at)
                assert not within <= at < within + len(weight) or within < 0
        file.write_bytes(content)
    assert refused["weights"] >= 4
    assert refused["all"] > 100


def test_a_shard_of_another_checkpoint_is_refused(tmp_path):
    """Whole in itself, and of the same size."""
    one, two = (write_folder(tmp_path / f"step={n}.ckpt", n) for n in (1, 2))
    (shard,) = two.glob("*.distcp")
    shutil.copy(shard, one)
    with pytest.raises(ValueError, match="is not as it was written"):
        read_whole(one)


@pytest.mark.parametrize("name", ["__0_0.distcp", META])
def test_a_shortened_or_missing_file_is_refused(tmp_path, name):
    path = write_folder(tmp_path / "step=1.ckpt")
    (path / name).write_bytes((path / name).read_bytes()[:-1])
    with pytest.raises(ValueError, match="cannot be read"):
        read_whole(path)
    (path / name).unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        read_whole(path)


def test_tensors_without_elements_and_shared_ones_are_read(tmp_path):
    tied = torch.arange(4.0)
    content = {
        "state_dict": {
            "none": torch.empty(0, 3), "a": tied, "again": torch.empty(0), "b": tied.view(2, 2),
            "c": torch.ones(3),
        },
        "optimizer_states": [],
    }  # fmt: skip
    torch.save(content, tmp_path / "a.ckpt")
    for read in (read_whole, read_without_optimizer, _load_together):
        assert same(read(tmp_path / "a.ckpt"), content)


@pytest.mark.parametrize("what", ["a flipped bit", "a missing file"])
def test_a_damaged_export_is_refused(tmp_path, pair, what):
    folder = tmp_path / "export"
    shutil.copytree(pair[0], folder)
    mark_export(folder, "here")
    load_model(ModelArgs(str(folder)))
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    if what == "a missing file":
        (folder / "generation_config.json").unlink(missing_ok=True)
        (folder / "tokenizer.json").unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        load_model(ModelArgs(str(folder)))
    (folder / MARKER).unlink()  # as for a folder that somebody has changed on purpose
    load_model(ModelArgs(str(folder)))


@pytest.mark.parametrize("kind", ["cut", "bit", "bytes", "noise"])
@pytest.mark.parametrize("name", ["__0_0.distcp", META])
def test_any_damage_to_a_folder_ends_in_a_sentence(tmp_path, name, kind):
    path = write_folder(tmp_path / "step=1.ckpt")
    expected = read_whole(path)["state_dict"]
    good, random = (path / name).read_bytes(), Random(name + kind)
    for _ in range(20):
        bad, at = bytearray(good), random.randrange(len(good))
        if kind == "cut":
            del bad[at:]
        elif kind == "bit":
            bad[at] ^= 1 << random.randrange(8)
        elif kind == "bytes":
            bad[at : at + 20] = random.randbytes(20)
        else:
            bad = bytearray(random.randbytes(len(good)))
        (path / name).write_bytes(bad)
        for read in (read_whole, read_without_optimizer, read_embedded):
            try:
                found = read(path).get("state_dict", expected)
            except UserError as reason:
                message = str(reason)
            else:
                message = str(path)
                assert all(torch.equal(found[key], value) for key, value in expected.items())
            assert str(path) in message
