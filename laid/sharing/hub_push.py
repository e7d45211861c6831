"""Folders on their way to the Hugging Face hub."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi

from laid.common.errors import UserError, first_line
from laid.common.printable import printable
from laid.common.tables import Cell, Table, text

log = logging.getLogger(__name__)

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
"""``USER/NAME``."""


def check_repo(repo: str) -> None:
    """Refuses a ``--push_to`` that is no name of a repository.

    Raises:
        UserError: it is not of the form ``USER/NAME``.
    """
    if not REPOSITORY.fullmatch(repo):
        raise UserError(f"--push_to {repo!r}: expected USER/NAME, as on the hub")


def push(
    folder: Path,
    names: Sequence[str],
    repo: str,
    kind: Literal["model", "dataset"],
    private: bool,
    dry_run: bool,
) -> None:
    """Uploads files of a folder in one commit, or prints what would be uploaded.

    Args:
        names: of the files, relative to the folder.
        repo: ``USER/NAME``; made if it is not there.
        private: whether a repository that is made is private.
        dry_run: print path and size of each file, and reach for nothing.

    Raises:
        UserError: the hub cannot be reached, or refuses.
    """
    sizes = {name: (folder / name).stat().st_size for name in sorted(names)}
    rows: list[list[Cell | str]] = [[name, Cell(f"{size:,}", size)] for name, size in sizes.items()]
    rows.append(["in all", Cell(f"{sum(sizes.values()):,}", sum(sizes.values()))])
    print(printable(text(Table("push", repo, ["path", "bytes"], rows))))
    if dry_run:
        log.info("dry run: nothing was sent to the %s %s", kind, repo)
        return
    api = HfApi()
    try:
        url = api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            repo_type=kind,
            folder_path=folder,
            allow_patterns=list(sizes),
            commit_message="Upload with laid",
        )
    except Exception as reason:  # of its HTTP library, which changes with its versions
        raise UserError(
            f"cannot push to {repo}: {first_line(reason)}. Log in with `hf auth login`, with a "
            "token that may write there, or look at what would go up with --dry_run true"
        ) from reason
    log.info("pushed to %s", url)
