"""Files made to run code when they are read: they are refused with a sentence, and run none."""

import io
import json
import pickle
import shutil
import zipfile
from functools import partial

import pytest
import torch
from checkpoints.conftest import Marker, write_file, write_folder

from laid.checkpoints.checkpoint_files import META, fingerprint
from laid.checkpoints.runs import find_checkpoint
from laid.checkpoints.sharded_checkpoints import read_whole
from laid.miniature.resumable_stage import Stage
from laid.vlm.model_loading import ModelArgs, load_model
from laid.vlm.processor import ProcessorArgs, load_processor

READERS = [
    read_whole,
    partial(read_whole, with_optimizer=False),
    lambda path: find_checkpoint(str(path), path.parent),
]


def saved(value):
    """What ``torch.save`` writes, as DCP keeps what is no tensor."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", [".metadata", "__0.metadata", META])
def test_a_pickle_in_a_sharded_checkpoint(tmp_path, marker, hostile, name, read):
    path = write_folder(tmp_path / "step=1.ckpt")
    (path / name).write_bytes(hostile)
    with pytest.raises(ValueError, match="cannot be read"):
        read(path)
    assert not marker.exists()


def test_what_is_no_tensor_in_a_shard(tmp_path, marker):
    """DCP unpickles it with ``weights_only=False``: learning rates, names of parameters."""
    path = write_folder(tmp_path / "step=1.ckpt")
    meta = torch.load(path / META, weights_only=True)
    evil = saved(Marker(marker))
    printed = fingerprint(io.BytesIO(evil))
    for name, entry in meta["index"].items():
        if "dtype" not in entry:
            (shard,) = path.glob("*.distcp")
            _, _, file, *_ = entry["pieces"][0]
            with shard.open("ab") as end:
                first = end.tell()
                end.write(evil)
            meta["index"][name]["pieces"] = [(None, None, file, first, len(evil), printed)]
            meta["files"][file] = shard.stat().st_size
    torch.save(meta, path / META)
    with pytest.raises(ValueError, match="not one that laid wrote"):
        read_whole(path)
    assert not marker.exists()


@pytest.mark.parametrize("file", ["../outside", "/etc/hostname", "__0_9.distcp", "meta.pt"])
def test_an_index_that_points_elsewhere(tmp_path, file):
    path = write_folder(tmp_path / "step=1.ckpt")
    meta = torch.load(path / META, weights_only=True)
    for entry in meta["index"].values():
        entry["pieces"] = [(o, s, file, *rest) for o, s, _, *rest in entry["pieces"]]
    torch.save(meta, path / META)
    with pytest.raises(ValueError, match="its index does not fit its files"):
        read_whole(path)


def test_an_index_that_claims_more_than_there_is(tmp_path):
    path = write_folder(tmp_path / "step=1.ckpt")
    meta = torch.load(path / META, weights_only=True)
    meta["index"]["state_dict.student.b"]["size"] = (10**15,)
    torch.save(meta, path / META)
    with pytest.raises(ValueError, match="its index does not fit its files"):
        read_whole(path)


@pytest.mark.parametrize("read", READERS)
def test_a_pickle_in_a_checkpoint_file(tmp_path, marker, hostile, read):
    path = write_file(tmp_path / "step=1.ckpt")
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, value in members.items():
            new.writestr(name, hostile if name.endswith("data.pkl") else value)
    with pytest.raises(ValueError, match="cannot be read"):
        read(path)
    path.write_bytes(hostile)
    with pytest.raises(ValueError, match="cannot be read"):
        read(path)
    assert not marker.exists()


def test_a_stage_of_pretraining(tmp_path, marker):
    torch.save(Marker(marker), tmp_path / "tower.pt")
    with pytest.raises(pickle.UnpicklingError):
        Stage(tmp_path, "tower").result()
    assert not marker.exists()


CODE = "import pathlib; pathlib.Path({!r}).touch()\nclass Evil: pass\n"


@pytest.mark.parametrize("kind", ["pytorch_model.bin", "auto_map"])
def test_a_model_folder(tmp_path, marker, pair, kind):
    """Weights as a pickle, or classes of its own: neither is loaded, and nobody is asked."""
    folder = tmp_path / "model"
    shutil.copytree(pair[0], folder)
    if kind == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
        torch.save({"a": Marker(marker)}, folder / kind)
    else:
        (folder / "evil.py").write_text(CODE.format(str(marker)))
        for name, classes in (
            ("config.json", {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}),
            ("tokenizer_config.json", {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}),
            ("preprocessor_config.json", {"AutoImageProcessor": "evil.Evil"}),
        ):
            content = json.loads((folder / name).read_text())
            content["auto_map"] = classes
            if name == "config.json":
                content["model_type"] = "evil"
            if "tokenizer_class" in content:
                content["tokenizer_class"] = "Evil"
            (folder / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="cannot load"):
        load_model(ModelArgs(str(folder)))
    if kind == "auto_map":
        with pytest.raises(ValueError, match="cannot load"):
            load_processor(ProcessorArgs(str(folder)))
    assert not marker.exists()


@pytest.fixture(scope="module")
def sharded(laid, config, work):
    """A run of one step, sharded."""
    laid(
        "fit", "--config", config, "--name", "hostile", "--trainer.strategy", "laid_fsdp",
        "--trainer.devices", 1, "--trainer.max_steps", 1, "--head_flow.enabled", "false",
        "--trainer.limit_val_batches", 0,
    )  # fmt: skip
    return work / "runs" / "hostile" / "checkpoints" / "step=1.ckpt"


@pytest.mark.parametrize("command", ["test", pytest.param("export", marks=pytest.mark.slow), "fit"])
def test_commands_run_no_code_from_a_checkpoint(laid, sharded, tmp_path, marker, hostile, command):
    path = tmp_path / "checkpoints" / "step=1.ckpt"
    shutil.copytree(sharded, path)
    (path / ".metadata").write_bytes(hostile)
    options = ("--out", tmp_path / "out") if command == "export" else ()
    done = laid(command, "--ckpt_path", path, *options, code=2)
    assert "cannot be read: it has a .metadata" in done.err
    assert "Traceback" not in done.err
    assert not marker.exists()
