"""The command ``laid data build``: haystack files for training and test from a COCO folder."""

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset

from laid.common.atomic_files import atomic_dir, only_writer
from laid.common.errors import UserError
from laid.data.benchmark_tasks import SHARED_FILES, TEST_FILES, Format, task_files
from laid.data.coco_index import CocoIndex
from laid.data.entry_args import SIZES, TRAIN_ENTRIES, TrainArgs
from laid.data.haystack_builder import build_entries, build_training_entries
from laid.data.prompt import PREFIX
from laid.data.vhs_files import write_vhs
from laid.minicoco.drawing import coco_folder

log = logging.getLogger(__name__)

_TRAIN = "train.json"


def build(
    coco_root: str,
    out: str,
    seed: int = 0,
    train_entries: int | None = None,
    min_size: int = TrainArgs.min_size,
    max_size: int = TrainArgs.max_size,
    test_per_size: int = 100,
    sizes: Sequence[int] = SIZES,
    needles: Sequence[int] = (1,),
    categories: Sequence[str] | None = None,
    min_area: float = 0.001,
    train_split: str = TrainArgs.split,
    test_split: str = "val2017",
    overwrite: bool = False,
    format: Format = "vhs",
    prefix: str | None = None,
) -> None:
    """Draw haystacks and write them in the format of Visual Haystacks, or as a benchmark's task.

    Writes train.json and one test_<size>.json a size, all at once: if it is stopped, the folder is
    as before. Other files in it stay.

    Args:
        coco_root: COCO's folder (annotations/, train2017/, val2017/), or "minicoco" for the drawn
            one, which is made on first use.
        out: The folder to write to: a new one, or one that has no folder in it.
        seed: Any whole number; the same seed gives the same files.
        train_entries: Number of training entries, even; 0 writes no train.json. None: 5,000, and
            none for a benchmark.
        min_size: Fewest images of a training haystack.
        max_size: Most images of a training haystack.
        test_per_size: Test entries of each size, even.
        sizes: Numbers of images of the test haystacks; may be empty.
        needles: Numbers of needles to draw from: 1, or 2 and 3 for questions about all images.
        categories: The objects to ask about; all by default.
        min_area: Smallest area of an object that is asked about, as a share of its image.
        train_split: The images to train on.
        test_split: The images to test on.
        overwrite: Replace files that are already there.
        format: vhs, Visual Haystacks. lmms-eval, a task folder for its --include_path, a task a
            size; vlmeval, a TSV a size for VLMEvalKit: test entries only, images by absolute path.
        prefix: What a benchmark's task puts before each question. None: that of Visual Haystacks.

    Raises:
        UserError: A file is there already, the folder has folders in it or is the current one,
            an argument is out of range, the split has too few images for a size, or another
            process writes to the folder.
    """
    folder = Path(out).resolve()
    if format == "vhs" and prefix is not None:
        raise UserError("--prefix is of a benchmark's task: Visual Haystacks files have none")
    usual = TrainArgs.min_size, TrainArgs.max_size, TrainArgs.split
    if format != "vhs" and (train_entries or (min_size, max_size, train_split) != usual):
        raise UserError(
            f"--format {format} has test entries only: leave out --train_entries, --min_size, "
            "--max_size and --train_split"
        )
    if train_entries is None:
        train_entries = TRAIN_ENTRIES if format == "vhs" else 0
    if not train_entries and not sizes:
        raise UserError("nothing to write: give test entries by --sizes, or --train_entries")
    with only_writer(folder):
        tests = [TEST_FILES[format].format(size) for size in sizes]
        wanted = [*[_TRAIN] * bool(train_entries), *tests, *SHARED_FILES[format]]
        there = _names(folder)
        existing = [name for name in wanted if name in there]
        if existing and not overwrite:
            raise UserError(
                f"{folder} already holds {', '.join(existing)}. Choose another folder, or give "
                "overwrite=true to replace them."
            )
        _check_replaceable(folder)
        root = coco_folder(coco_root)
        if train_entries and sizes and train_split == test_split:
            log.warning("training and test share the images of %s", test_split)
        files: dict[str, Dataset] = {}
        by_size: dict[int, Dataset] = {}
        if train_entries:
            index = CocoIndex.load(root, train_split, min_area, check_images=True)
            files[_TRAIN] = build_training_entries(
                index, train_entries, min_size, max_size, seed, needles, categories
            )
        if sizes:
            index = CocoIndex.load(root, test_split, min_area, check_images=True)
            entries = build_entries(index, "test", sizes, test_per_size, seed, needles, categories)
            for number, size in enumerate(sizes):
                rows = range(number * test_per_size, (number + 1) * test_per_size)
                by_size[size] = files[tests[number]] = entries.select(rows)
        with atomic_dir(folder, lambda now: _unchanged(now, there)) as temporary:
            if format == "vhs":
                for name, entries in files.items():
                    write_vhs(entries, temporary / name)
            else:
                before = PREFIX if prefix is None else prefix
                texts = task_files(by_size, format, root.resolve(), folder, before)
                for name, text in texts.items():
                    (temporary / name).write_text(text, encoding="utf-8")
            for name in there - {path.name for path in temporary.iterdir()}:
                _keep(folder / name, temporary / name)
        for name, entries in files.items():
            shown = sum(entries["size"])
            log.info("%s: %d entries, %d images shown", Path(out) / name, len(entries), shown)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def _check_replaceable(folder: Path) -> None:
    """Several files change at once only if their folder is replaced by another."""
    if not folder.exists():
        return
    what = ""
    if Path.cwd().is_relative_to(folder):
        what = "is the current folder or one above it"
    elif folder.is_mount():
        what = "is a mount point"
    elif inside := sorted(path.name for path in folder.iterdir() if not path.is_file()):
        what = f"has {inside[0]} in it, which is no file"
    if what:
        raise UserError(f"{folder} {what}. Name a folder in it, such as {folder / 'haystacks'}.")


def _keep(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # a file system without hard links
        shutil.copy2(old, new)


def _unchanged(folder: Path, there: set[str]) -> bool:
    if appeared := sorted(_names(folder) - there):
        raise UserError(f"{appeared[0]} has appeared in {folder}; nothing is written.")
    return True
