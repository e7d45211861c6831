"""Where a model named by the user is: the package, a local folder, or the Hugging Face hub."""

import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load, snapshot_download
from yaml import YAMLError

from laid.common.errors import UserError, first_line
from laid.common.file_hashes import file_hashes
from laid.vlm.export_marker import CARD, MARKER

PACKAGED = "tiny/"
INDEX = "model.safetensors.index.json"
_WEIGHTS = ("*.safetensors", INDEX)
_READ = ("*.json", "*.jinja", "*.txt")
_TEMPLATES = "additional_chat_templates"
_NOT_SETTINGS = (INDEX, MARKER)


def resolve_model(path: str) -> str:
    """The folder or hub id that transformers' ``from_pretrained`` understands.

    ``tiny/NAME`` is a model of the package (``laid/miniature/assets/tiny/NAME``), unless the
    working directory has a folder of that name. Anything else is a local folder or a hub id.

    Raises:
        UserError: the name is that of no packaged model, or looks like a local path that does
            not exist.
    """
    if Path(path).is_dir():
        return path
    if path.startswith(PACKAGED):
        home = Path(str(files("laid") / "miniature" / "assets"))
        if (home / path).is_dir():
            return str(home / path)
        known = sorted(f"{PACKAGED}{p.name}" for p in (home / PACKAGED).glob("*") if p.is_dir())
        raise UserError(f"no packaged model {path!r}; there are {', '.join(known)}")
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1
    if looks_local:
        raise UserError(
            f"no model folder {path!r}: expected a folder with a config.json, a hub id such as "
            f"Qwen/Qwen2.5-VL-7B-Instruct, or a packaged model such as {PACKAGED}student"
        )
    return path


def model_folder(
    path: str,
    revision: str | None,
    patterns: Sequence[str] = (*_WEIGHTS, *_READ),
    local_files_only: bool = False,
) -> Path:
    """The folder of a model; of one on the hub, the files of ``patterns`` are downloaded first.

    Raises:
        UserError: it can't be downloaded, or with ``local_files_only`` it is not there.
    """
    found = resolve_model(path)
    if Path(found).is_dir():
        return Path(found)
    try:
        folder = snapshot_download(
            found,
            revision=revision,
            allow_patterns=list(patterns),
            local_files_only=local_files_only,
        )
    except (OSError, ValueError) as reason:
        raise cannot_load("files", path, reason) from reason
    return Path(folder)


def hub_id(path: str) -> str | None:
    """The name on the hub of a model; None of a packaged one and of a local folder."""
    return None if path.startswith(PACKAGED) or Path(resolve_model(path)).is_dir() else path


def card_metadata(path: str, revision: str | None) -> dict[str, Any]:
    """What the head of a model's README.md says; empty where there is none that can be had."""
    try:
        return metadata_load(model_folder(path, revision, [CARD]) / CARD) or {}
    except (OSError, ValueError, YAMLError):
        return {}


def weights_fingerprint(path: str, revision: str | None) -> str:
    """What identifies a set of weights: a hash of the content of all its files.

    Raises:
        UserError: as ``model_folder``.
    """
    files = _hashes(model_folder(path, revision), _WEIGHTS)
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


def settings_hashes(path: str, revision: str | None) -> dict[str, str]:
    """By name, a hash of every other file that is read: configurations, tokenizer, chat template.

    Raises:
        UserError: as ``model_folder``.
    """
    files = _hashes(model_folder(path, revision, _READ), _READ)
    return {name: sha256[:16] for name, sha256 in files.items() if name not in _NOT_SETTINGS}


def _hashes(folder: Path, patterns: Sequence[str]) -> dict[str, str]:
    places = folder, folder / _TEMPLATES
    found = {path for place in places for pattern in patterns for path in place.glob(pattern)}
    files = sorted(path for path in found if path.is_file())
    names = [file.relative_to(folder).as_posix() for file in files]
    return dict(zip(names, file_hashes(files), strict=True))


def cannot_load(what: str, path: str, reason: Exception) -> UserError:
    """The one message for a model, configuration or tokenizer that does not load."""
    return UserError(
        f"cannot load the {what} of {path!r}: {first_line(reason, None)} "
        "Give a folder in Hugging Face layout, or a hub id that this machine can reach "
        "(a gated or private one needs `hf auth login`; offline machines need it in the cache)."
    )
