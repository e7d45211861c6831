"""``laid cache push``: a cache of a teacher's signals as a dataset on the Hugging Face hub."""

from importlib.resources import files
from pathlib import Path

import yaml

from laid import __version__
from laid.common.atomic_files import atomic_write_text
from laid.common.cached_folders import folder_files
from laid.sharing.hub_push import check_repo, push
from laid.teacher_cache.cache_size import described
from laid.teacher_cache.signal_store import CARD, HEADER, SignalStore

_TEMPLATE = (files("laid.sharing") / "cache_card.txt").read_text("utf-8")


def push_cache(folder: str, push_to: str, private: bool = True, dry_run: bool = False) -> None:
    """Push what `laid cache` made, which `--model.teacher_source cache:hf://USER/NAME` reads.

    Every file is compared with its checksum first: a cache that lacks a part, or in which one is
    damaged, is not pushed. A card (README.md) is written into the folder and goes with it.

    Args:
        folder: The cache.
        push_to: Repository on the Hugging Face hub, USER/NAME.
        private: Whether a repository that is made there is private.
        dry_run: List what would be uploaded, and send nothing.

    Raises:
        UserError: it is no whole cache, or the hub refuses.
    """
    check_repo(push_to)
    store = SignalStore.open(Path(folder))
    store.check_whole()
    atomic_write_text(store.folder / CARD, _card(store, push_to))
    parts = [store.teacher, *(store.place(shard) for shard in store.shards)]
    names = [
        path.relative_to(store.folder).as_posix() for part in parts for path in folder_files(part)
    ]
    push(store.folder, [CARD, HEADER, *names], push_to, "dataset", private, dry_run)


def _card(store: SignalStore, repo: str) -> str:
    header = store.header
    metadata = {"viewer": False, "tags": ["laid", "distillation"]}
    return _TEMPLATE.format(
        metadata=yaml.safe_dump(metadata, sort_keys=False).strip(),
        repo=repo,
        teacher=header.teacher["path"],
        entries=f"{header.entries:,}",
        held=described(header.wanted),
        stored_as=header.stored_as,
        version=__version__,
    )
