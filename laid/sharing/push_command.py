"""``laid data push``: haystack files as a dataset on the Hugging Face hub."""

import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import yaml
from datasets import Dataset

from laid import __version__
from laid.common.errors import UserError
from laid.data.entries import HaystackEntry, dataset_of
from laid.data.vhs_files import parse_vhs
from laid.sharing.hub_push import check_repo, push

_ROLES = ("train", "validate", "test")
_TEMPLATE = (files("laid.sharing") / "dataset_card.txt").read_text("utf-8")


def push_data(
    folder: str, push_to: str, private: bool = True, seed: int = 0, dry_run: bool = False
) -> None:
    """Push haystack files as a dataset, which `--data.test.source [hf:USER/NAME]` reads.

    The entries of all .json files in the folder go up as Parquet, train*.json as the split train,
    validate*.json as validate and all others as test, with a card. The images stay where they are:
    entries name them relative to the COCO folder.

    Args:
        folder: What `laid data build` wrote, or a folder of official Visual Haystacks files.
        push_to: Repository on the Hugging Face hub, USER/NAME.
        private: Whether a repository that is made there is private.
        seed: Of the order in which images of official files are shown.
        dry_run: List what would be uploaded, and send nothing.

    Raises:
        UserError: there is no such folder, a file in it is not in the format, or the hub refuses.
    """
    check_repo(push_to)
    found = sorted(Path(folder).glob("*.json"))
    if not found:
        raise UserError(f"--folder {folder}: no .json files there, as `laid data build` writes")
    splits: dict[str, list[HaystackEntry]] = {}
    for path in found:
        role = next((name for name in _ROLES if path.stem.startswith(name)), "test")
        splits.setdefault(role, []).extend(parse_vhs(path, folder, role, seed))
    entries = {role: dataset_of(splits[role]) for role in _ROLES if role in splits}
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        for role, rows in entries.items():
            rows.to_parquet(home / f"{role}.parquet")
        (home / "README.md").write_text(_card(push_to, entries), encoding="utf-8")
        names = [path.name for path in home.iterdir()]
        push(home, names, push_to, "dataset", private, dry_run)


def _card(repo: str, entries: Mapping[str, Dataset]) -> str:
    data_files = [{"split": role, "path": f"{role}.parquet"} for role in entries]
    metadata = {
        "task_categories": ["visual-question-answering"],
        "configs": [{"config_name": "default", "data_files": data_files}],
        "tags": ["laid", "long-context"],
    }
    rows = []
    for role, of_role in entries.items():
        sizes = sorted(set(of_role["size"]))
        rows.append(f"| {role} | {len(of_role):,} | {', '.join(map(str, sizes))} |")
    return _TEMPLATE.format(
        metadata=yaml.safe_dump(metadata, sort_keys=False).strip(),
        repo=repo,
        rows="\n".join(rows),
        version=__version__,
    )
