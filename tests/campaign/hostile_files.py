"""Files that were made to run code, to write elsewhere or to fake output: nothing of it happens."""

import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from campaign.case import Case, assert_clean, error_of, refusal
from campaign.world import Place, tree

KIND = "hostile files"


class Touch:
    """Unpickled without care, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def _pickled(place: Place) -> bytes:
    content = pickle.dumps(Touch(place.marker), protocol=2)
    pickle.loads(content).close()
    assert place.marker.exists(), "it would not have run"
    place.marker.unlink()
    return content


def _saved(place: Place, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": {"a": Touch(place.marker)}, "laid": {}}, file, **options)
    return file.getvalue()


# --- checkpoints ---


def _with_pickle_inside(place: Place) -> Path:
    path = place.copy(place.world.run / "checkpoints" / "step=4.ckpt")
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, value in members.items():
            new.writestr(name, _pickled(place) if name.endswith("data.pkl") else value)
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
    ("a pickle", _whole(_pickled)),
    ("a pickle in a zip", _with_pickle_inside),
    ("torch.save of an object", _whole(_saved)),
    ("the old torch format", _whole(lambda p: _saved(p, _use_new_zipfile_serialization=False))),
    ("an object in the weights", _with_object("state_dict.evil")),
    ("an object in the optimizer's state", _with_object("optimizer_states.0.evil")),
    ("an object in the schedule's state", _with_object("lr_schedulers.0.evil")),
    ("an object in the callbacks' state", _with_object("callbacks.evil")),
    ("an object in the settings", _with_object("laid.config")),
    ("an object as hyper-parameters", _with_object("hyper_parameters")),
    (".metadata", _in_folder(".metadata", _pickled)),
    ("__0.metadata", _in_folder("__0.metadata", _pickled)),
    ("meta.pt", _in_folder("meta.pt", _pickled)),
    ("meta.pt of an object", _in_folder("meta.pt", _saved)),
    ("a shard", _in_folder("__0_0.distcp", _pickled)),
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
_LOGGER = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "OUTSIDE"}}
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
                "best_k_models": {str(thesis): torch.tensor(1.0), "../notes.ckpt": torch.tensor(2.0)},
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


# --- model folders ---


def _model(change: Callable[[Place, Path], None]) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        folder = place.copy(place.world.student, "model")
        change(place, folder)
        config = place.config({"model.student.path": str(folder)})
        return ["test", "--config", config, "--results", "out"]

    return prepare


def _edit(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def _own_classes(place: Place, folder: Path) -> None:
    code = f"import pathlib; pathlib.Path({str(place.marker)!r}).touch()\nclass Evil: pass\n"
    (folder / "evil.py").write_text(code)
    _edit(
        folder / "config.json", model_type="evil",
        auto_map={"AutoConfig": "evil.Evil", "AutoModelForImageTextToText": "evil.Evil"},
    )  # fmt: skip


def _own_tokenizer(place: Place, folder: Path) -> None:
    _own_classes(place, folder)
    shutil.copy(place.world.student / "config.json", folder)
    _edit(
        folder / "tokenizer_config.json", tokenizer_class="Evil",
        auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
    )  # fmt: skip


def _own_processor(place: Place, folder: Path) -> None:
    _own_classes(place, folder)
    shutil.copy(place.world.student / "config.json", folder)
    _edit(
        folder / "preprocessor_config.json", image_processor_type="Evil",
        processor_class="Evil", auto_map={"AutoImageProcessor": "evil.Evil"},
    )  # fmt: skip


def _pickled_weights(place: Place, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": Touch(place.marker)}, folder / "pytorch_model.bin")


def _long_header(place: Place, folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])


def _deep_header(place: Place, folder: Path) -> None:
    header = b'{"a":' * 50_000
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def _wrong_offsets(place: Place, folder: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [9, 9], "data_offsets": [0, 2**40]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def _index_elsewhere(place: Place, folder: Path) -> None:
    shutil.move(folder / "model.safetensors", place.folder / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"model.embed": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _broken_index(text: str) -> Callable[[Place, Path], None]:
    def change(place: Place, folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(text)

    return change


def _template(text: str) -> Callable[[Place, Path], None]:
    def change(place: Place, folder: Path) -> None:
        (folder / "chat_template.jinja").write_text(text.replace("MARKER", str(place.marker)))

    return change


def _text(name: str, text: str) -> Callable[[Place, Path], None]:
    return lambda place, folder: (folder / name).write_text(text) and None


def _config(**keys: Any) -> Callable[[Place, Path], None]:
    return lambda place, folder: _edit(folder / "config.json", **keys)


_ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
_OPEN = "{{ cycler.__init__.__globals__.os.popen('touch MARKER').read() }}"
_LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
MODELS: tuple[tuple[str, Callable[[Place, Path], None], str], ...] = (
    ("classes of its own", _own_classes, "model"),
    ("a tokenizer of its own", _own_tokenizer, "model"),
    ("an image processor of its own", _own_processor, "model"),
    ("weights as a pickle", _pickled_weights, "model"),
    ("a header of 2^62 bytes", _long_header, "model"),
    ("a deep header", _deep_header, "model"),
    ("offsets behind the end", _wrong_offsets, "model"),
    ("an index to another folder", _index_elsewhere, "model"),
    ("an index that is no JSON", _broken_index("{"), "model"),
    ("an index without a map", _broken_index("{}"), "model"),
    ("an index of a list", _broken_index("[]"), "model"),
    ("an index of absent files", _broken_index('{"weight_map": {"a": "b.safetensors"}}'), "model"),
    ("a deep index", _broken_index('{"a":' * 100_000), "model"),
    ("a template that leaves its sandbox", _template(_ESCAPE), "template"),
    ("a template that opens a shell", _template(_OPEN), "template"),
    ("a template that loops", _template(_LOOP), "template"),
    ("a template that grows", _template("{{ 'x' * 10000000000 }}"), "template"),
    ("a template that is none", _template("{% for %}"), "template"),
    ("a template that shows no image", _template("hello"), "template|image"),
    ("a template of nothing", _template(""), "template|image|prompt"),
    ("a config that is no JSON", _text("config.json", "{"), "model"),
    ("a config of a list", _text("config.json", "[]"), "model"),
    ("a deep config", _text("config.json", '{"a":' * 100_000), "model"),
    ("a tokenizer that is no JSON", _text("tokenizer.json", "{"), "model"),
    ("a processor that is no JSON", _text("preprocessor_config.json", "{"), "model"),
    ("a model type that is none", _config(model_type="gremlin"), "gremlin|model"),
    ("a text in place of a number", _config(text_config={"hidden_size": "wide"}), "model"),
    ("a model of 10^15 weights", _config(text_config={"hidden_size": 10**9}), "model"),
)  # fmt: skip
"""Changes to a model folder, and a word of the message."""


# --- data, caches, results ---


def _poisoned_cache(place: Place) -> None:
    """The index of a COCO in the cache, with a pickle in it: made again, and not unpickled."""
    cache = {"LAID_CACHE": str(place.outside / "cache")}
    words = ["test", "--config", place.config(), "--results"]
    assert place.laid(*words, "one", environment=cache).code == 0
    for path in (place.outside / "cache" / "coco").glob("*.npz"):
        np.savez(path, **dict.fromkeys(("files", "cells"), np.array([Touch(place.marker)], object)))
    for path in (place.outside / "cache" / "entries").rglob("*.json"):
        path.write_bytes(_pickled(place))
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
    "`rm -rf`", "| a | b |", "a\nb\n# c", "\\input{/etc/passwd}", "$x_1$ & 100% #1 ~ ^", "\u202egnp",
)  # fmt: skip


def _named(name: str) -> Callable[[Place], None]:
    """A report on results with a name that somebody made up."""

    def check(place: Place) -> None:
        folder = place.copy(place.world.tested)
        _edit(folder / "results.json", name=name)
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
                wrong = [c for c in cells if c[:1] in ("=", "@") or (c[:1] == "+" and c[1:2] == "1")]
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
    *(
        refusal(
            KIND, f"{command}: {what}", _read_by(command, make), "cannot be read",
            sample=(command, what) in (("test", ".metadata"), ("fit", "a pickle")),
        )
        for what, make in CHECKPOINTS
        for command in ("test", "fit", "export")
    ),
    *(
        refusal(KIND, f"{command}: .metadata", _read_by(command, CHECKPOINTS[10][1]), "cannot be read")
        for command in ("validate", "predict")
    ),
    *(
        Case(KIND, f"a checkpoint with {part}.{key} {n}", _foreign(part, key, value))
        for n, (part, key, value) in enumerate(FOREIGN)
    ),
    Case(KIND, "a checkpoint that names somebody's files as its own", _names_of_others),
    *(refusal(KIND, f"a model with {what}", _model(change), word) for what, change, word in MODELS),
    Case(KIND, "a pickle in the cache", _poisoned_cache),
    refusal(KIND, "a folder of scripts as a data set", _script_as_source, "data"),
    refusal(KIND, "a script as a data set", _script_file_as_source, "data.py"),
    *(
        Case(KIND, f"results named {name!r}", _named(name), sample=name.startswith("=cmd"))
        for name in NAMES
    ),
    Case(KIND, "questions with escape codes", _crafted_question),
    Case(KIND, "an export's list that names other files", _marker_names_outside),
    *(refusal(KIND, f"export over {what}", _overwrites(what), "is not replaced") for what in _TARGETS),
]  # fmt: skip
