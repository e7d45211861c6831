"""A cache of a teacher's signals that is a dataset on the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import snapshot_download

from laid.common.errors import UserError, first_line
from laid.teacher_cache.signal_store import HEADER, SHARDS, TEACHER

HUB = "hf://"


def hub_cache(name: str, local_files_only: bool) -> Path:
    """The folder of a cache; what this machine lacks of it is downloaded first.

    Args:
        name: ``hf://USER/NAME``, with ``@REVISION`` for another than the newest.

    Raises:
        UserError: it can't be downloaded, or with ``local_files_only`` it is not there.
    """
    repo, _, revision = name.removeprefix(HUB).partition("@")
    try:
        folder = snapshot_download(
            repo,
            repo_type="dataset",
            revision=revision or None,
            allow_patterns=[HEADER, f"{TEACHER}/*", f"{SHARDS}/*"],
            local_files_only=local_files_only,
        )
    except Exception as reason:  # of its HTTP library, which changes with its versions
        raise UserError(
            f"model.teacher_source: cannot download the cache {name}: {first_line(reason, None)}. "
            f"Expected cache:{HUB}USER/NAME of a dataset that this machine can reach (a private "
            "one needs `hf auth login`)"
        ) from reason
    return Path(folder)
