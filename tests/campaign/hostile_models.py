"""Model folders that were made to run code or never to end: refused with a sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from campaign.case import Case, assert_clean, refusal
from campaign.pickles import Touch
from campaign.world import Place

KIND = "hostile model folders"


def _model(change: Callable[[Place, Path], None]) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        folder = place.copy(place.world.student, "model")
        change(place, folder)
        config = place.config({"model.student.path": str(folder)})
        return ["test", "--config", config, "--results", "out"]

    return prepare


def edit(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def _own_classes(place: Place, folder: Path) -> None:
    code = f"import pathlib; pathlib.Path({str(place.marker)!r}).touch()\nclass Evil: pass\n"
    (folder / "evil.py").write_text(code)
    edit(
        folder / "config.json", model_type="evil",
        auto_map={"AutoConfig": "evil.Evil", "AutoModelForImageTextToText": "evil.Evil"},
    )  # fmt: skip


def _own_tokenizer(place: Place, folder: Path) -> None:
    _own_classes(place, folder)
    shutil.copy(place.world.student / "config.json", folder)
    edit(
        folder / "tokenizer_config.json", tokenizer_class="Evil",
        auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]},
    )  # fmt: skip


def _own_processor(place: Place, folder: Path) -> None:
    _own_classes(place, folder)
    shutil.copy(place.world.student / "config.json", folder)
    edit(
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
    header = json.dumps(
        {"a": {"dtype": "F32", "shape": [9, 9], "data_offsets": [0, 2**40]}}
    ).encode()
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
    return lambda place, folder: edit(folder / "config.json", **keys)


_ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
_OPEN = "{{ cycler.__init__.__globals__.os.popen('touch MARKER').read() }}"
_LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
MODELS: tuple[tuple[str, Callable[[Place, Path], None], str], ...] = (
    ("classes of its own", _own_classes, "model"),
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


def _harmless(change: Callable[[Place, Path], None]) -> Callable[[Place], None]:
    """Refused, or read as the class that the family has: code of the folder never runs."""

    def check(place: Place) -> None:
        done = place.laid(*_model(change)(place))
        assert done.code in (0, 2), str(done)
        assert_clean(place, done)

    return check


CASES: list[Case] = [
    *(
        refusal(KIND, f"a model with {what}", _model(change), word, sample=n == 0)
        for n, (what, change, word) in enumerate(MODELS)
    ),
    Case(KIND, "a model with a tokenizer of its own", _harmless(_own_tokenizer)),
    Case(KIND, "a model with an image processor of its own", _harmless(_own_processor)),
]
