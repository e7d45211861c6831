"""Checkpoints that were made to run code or to write elsewhere: nothing of it happens."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from campaign.case import Case, assert_clean, refusal
from campaign.pickles import Touch, pickled, saved
from campaign.world import Place

KIND = "hostile checkpoints"


def _with_pickle_inside(place: Place) -> Path:
    path = place.copy(place.world.run / "checkpoints" / "step=4.ckpt")
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, value in members.items():
            new.writestr(name, pickled(place) if name.endswith("data.pkl") else value)
    return path


def _with_object(key: str) -> Callable[[Place], Path]:
    """A good checkpoint with one object that runs code."""

    def make(place: Place) -> Path:
        source = place.world.run / "checkpoints" / "step=4.ckpt"
        content = torch.load(source, weights_only=True)
        inner = content
        *parents, last = key.split(".")
        for part in parents:
            inner = inner[int(part) if part.isdigit() else part]
        inner[last] = Touch(place.marker)
        path = place.folder / "step=4.ckpt"
        torch.save(content, path)
        return path

    return make


def _whole(content: Callable[[Place], bytes]) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        path = place.folder / "step=4.ckpt"
        path.write_bytes(content(place))
        return path

    return make


def _in_folder(name: str, content: Callable[[Place], bytes]) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        path = place.copy(place.world.sharded / "checkpoints" / "step=2.ckpt")
        (path / name).write_bytes(content(place))
        return path

    return make


CHECKPOINTS: tuple[tuple[str, Callable[[Place], Path]], ...] = (
    ("a pickle", _whole(pickled)),
    ("a pickle in a zip", _with_pickle_inside),
    ("torch.save of an object", _whole(saved)),
    ("the old torch format", _whole(lambda p: saved(p, _use_new_zipfile_serialization=False))),
    ("an object in the weights", _with_object("state_dict.evil")),
    ("an object in the optimizer's state", _with_object("optimizer_states.0.evil")),
    ("an object in the schedule's state", _with_object("lr_schedulers.0.evil")),
    ("an object in the callbacks' state", _with_object("callbacks.evil")),
    ("an object in the settings", _with_object("laid.config")),
    ("an object as hyper-parameters", _with_object("hyper_parameters")),
    (".metadata", _in_folder(".metadata", pickled)),
    ("__0.metadata", _in_folder("__0.metadata", pickled)),
    ("meta.pt", _in_folder("meta.pt", pickled)),
    ("meta.pt of an object", _in_folder("meta.pt", saved)),
    ("a shard", _in_folder("__0_0.distcp", pickled)),
)


def _read_by(command: str, make: Callable[[Place], Path]) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        more = ["--out", "out"] if command == "export" else []
        if command == "predict":
            more = ["--data.predict.source", place.world.questions]
        return [command, "--ckpt_path", make(place), *more]

    return prepare


def _settings_of(place: Place, change: Callable[[dict[str, Any]], None]) -> Path:
    """A checkpoint of a foreign run, whose settings were changed."""
    source = place.world.run / "checkpoints" / "step=2.ckpt"
    content = torch.load(source, weights_only=True)
    settings = yaml.safe_load(content["laid"]["config"])
    change(settings)
    content["laid"]["config"] = yaml.safe_dump(settings)
    path = place.folder / "runs" / "run" / "checkpoints" / "step=2.ckpt"
    path.parent.mkdir(parents=True)
    torch.save(content, path)
    return path


def _foreign(part: str, key: str, value: Any) -> Callable[[Place], None]:
    """Classes and folders that a checkpoint names are not used."""

    def check(place: Place) -> None:
        def change(settings: dict[str, Any]) -> None:
            text = json.dumps(value).replace("MARKER", str(place.marker))
            settings[part][key] = json.loads(text.replace("OUTSIDE", str(place.outside / "there")))

        path = _settings_of(place, change)
        done = place.laid("fit", "--ckpt_path", path, "--trainer.max_steps", 3)
        assert done.code in (0, 2), str(done)
        assert_clean(place, done)
        assert not (place.outside / "there").exists(), "it wrote outside the run"
        if done.code == 0:
            assert (path.parent / "step=3.ckpt").exists()

    return check


_CALL = {
    "class_path": "lightning.pytorch.callbacks.LambdaCallback",
    "init_args": {"setup": "os.system"},
}
_LOGGER = {
    "class_path": "lightning.pytorch.loggers.CSVLogger",
    "init_args": {"save_dir": "OUTSIDE"},
}
FOREIGN: tuple[tuple[str, str, Any], ...] = (
    ("trainer", "callbacks", [_CALL]),
    ("trainer", "logger", _LOGGER),
    ("trainer", "logger", [_LOGGER]),
    ("trainer", "profiler", {
        "class_path": "lightning.pytorch.profilers.SimpleProfiler",
        "init_args": {"dirpath": "OUTSIDE", "filename": "x"}}),
    ("trainer", "plugins", [{"class_path": "lightning.pytorch.plugins.TorchCheckpointIO"}]),
    ("trainer", "default_root_dir", "OUTSIDE"),
    ("trainer", "strategy", {"class_path": "lightning.pytorch.strategies.SingleDeviceStrategy"}),
    ("checkpoint", "dirpath", "OUTSIDE"),
    ("checkpoint", "filename", "../../../../outside/there"),
    ("model", "student", {"class_path": "os.system", "init_args": {"command": "touch MARKER"}}),
    ("data", "train", [{"class_path": "os.system"}]),
)  # fmt: skip
"""Part and key of a foreign checkpoint's settings, and what stands there."""


def _names_of_others(place: Place) -> None:
    """A checkpoint that lists somebody's files as its old checkpoints removes none of them."""
    source = place.world.run / "checkpoints" / "step=2.ckpt"
    content = torch.load(source, weights_only=True)
    thesis = place.outside / "thesis.ckpt"
    thesis.write_text("years of work")
    beside = place.folder / "runs" / "run" / "notes.ckpt"
    path = beside.parent / "checkpoints" / "step=2.ckpt"
    path.parent.mkdir(parents=True)
    beside.write_text("mine")
    for state in content["callbacks"].values():
        if "best_k_models" in state:
            state |= {
                "best_k_models": dict.fromkeys((str(thesis), "../notes.ckpt"), torch.tensor(1.0)),
                "best_model_path": str(thesis),
                "last_model_path": str(thesis),
                "kth_best_model_path": str(thesis),
                "dirpath": str(thesis.parent),
            }  # fmt: skip
    torch.save(content, path)
    done = place.laid(
        "fit", "--ckpt_path", path, "--trainer.max_steps", 4, "--checkpoint.save_top_k", 1
    )
    assert done.code == 0, str(done)
    assert thesis.read_text() == "years of work"
    assert beside.read_text() == "mine"


CASES: list[Case] = [
    *(
        refusal(
            KIND,
            f"{command}: {what}",
            _read_by(command, make),
            "cannot be read",
            sample=(command, what) in (("test", "a pickle in a zip"), ("fit", "a pickle")),
        )
        for what, make in CHECKPOINTS
        for command in ("test", "fit", "export")
    ),
    *(
        refusal(KIND, f"{command}: {what}", _read_by(command, make), "cannot be read")
        for what, make in CHECKPOINTS[10:11]
        for command in ("validate", "predict")
    ),
    *(
        Case(KIND, f"a checkpoint with {part}.{key} {n}", _foreign(part, key, value))
        for n, (part, key, value) in enumerate(FOREIGN)
    ),
    Case(KIND, "a checkpoint that names somebody's files as its own", _names_of_others),
]
