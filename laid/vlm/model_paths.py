"""Where a model named by the user is: the package, a local folder, or the Hugging Face hub."""

import hashlib
from importlib.resources import files
from pathlib import Path

from transformers import AutoConfig

from laid.common.errors import UserError

PACKAGED = "tiny/"
_MIB = 2**20


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


def weights_fingerprint(path: str, revision: str | None) -> str:
    """What identifies a set of weights: a hash of a folder's weight files (size, first
    and last MiB of each), or the commit of a hub id."""
    folder = Path(resolve_model(path))
    if not folder.is_dir():
        try:
            config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        except (OSError, ValueError) as reason:
            raise cannot_load("configuration", path, reason) from reason
        return str(config._commit_hash)
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as content:
            digest.update(content.read(_MIB))
            content.seek(max(0, size - _MIB))
            digest.update(content.read(_MIB))
    return digest.hexdigest()[:16]


def cannot_load(what: str, path: str, reason: Exception) -> UserError:
    """The one message for a model, configuration or tokenizer that does not load."""
    first = str(reason).strip().splitlines()[0] if str(reason).strip() else type(reason).__name__
    return UserError(
        f"cannot load the {what} of {path!r}: {first} "
        "Give a folder in Hugging Face layout, or a hub id that this machine can reach "
        "(a gated or private one needs `hf auth login`; offline machines need it in the cache)."
    )
