"""Haystack entries: questions about one or a few images among many, drawn from a COCO index.

Entries come in pairs, 2k with the answer yes and 2k + 1 with no, which share everything that the
question's words give away; ``laid.data.haystack_sampler`` says what else they share. An entry
depends on the seed, its role, size and index and on what the COCO index holds, on nothing else: not
on how many entries are asked for, in what order, or in which process.
"""

import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from datasets import Dataset, load_from_disk
from tqdm import tqdm

from laid.common.cached_files import cache_root
from laid.common.cached_folders import cached_folder
from laid.common.errors import UserError
from laid.common.random_streams import stream
from laid.data.coco_index import CocoIndex
from laid.data.entries import HaystackEntry, Mode, ask, dataset_of, entry_id
from laid.data.entry_args import MOST_ENTRIES
from laid.data.haystack_sampler import HaystackSampler

log = logging.getLogger(__name__)

# Raise it when equal arguments give other entries than before: it is part of the cache's key.
_FORMAT = 1


def build_entries(
    index: CocoIndex,
    role: str,
    sizes: Sequence[int],
    per_size: int,
    seed: int = 0,
    needles: Sequence[int] = (1,),
    categories: Sequence[str] | None = None,
) -> Dataset:
    """``per_size`` entries of each of ``sizes``, as for validation and test.

    Args:
        index: the images to draw from.
        role: names the random stream and the ids, for instance "test".
        sizes: images per haystack; a size equal to the number of needles is the oracle, for which
            the number of images with the target can't be matched between yes and no.
        per_size: entries per size, even.
        seed: any whole number.
        needles: the numbers of needles, of which each pair draws one: 1 asks about "the image",
            more about "all images", half of the time whether all and half whether any.
        categories: the objects to ask about; all of the index by default.

    Returns:
        ``len(sizes) * per_size`` rows with the columns of ``laid.data.entries.FEATURES``, by size.

    Raises:
        UserError: an argument is out of range, or the index has too few images for a size.
    """
    _check_even("per_size", per_size)
    if not sizes or len(set(sizes)) < len(sizes):
        raise UserError(f"sizes should be one or more different numbers, got {list(sizes)}.")
    plan = [(size, pair) for size in sizes for pair in range(per_size // 2)]
    return _build(index, role, plan, sizes, seed, needles, categories)


def build_training_entries(
    index: CocoIndex,
    n: int,
    min_size: int = 2,
    max_size: int = 20,
    seed: int = 0,
    needles: Sequence[int] = (1,),
    categories: Sequence[str] | None = None,
) -> Dataset:
    """``n`` entries; the size of each pair is uniform between ``min_size`` and ``max_size``.

    ``n`` is even. The other arguments, the rows and the errors are those of ``build_entries``.
    """
    _check_even("n", n)
    if not 1 <= min_size <= max_size:
        raise UserError(
            f"expected 1 <= min_size <= max_size, got min_size {min_size} and max_size {max_size}."
        )
    sizes = range(min_size, max_size + 1)
    plan = [
        (int(stream(seed, "train", "size", pair).integers(min_size, max_size + 1)), pair)
        for pair in range(n // 2)
    ]
    return _build(index, "train", plan, sizes, seed, needles, categories)


def cached_entries(build: Callable[..., Dataset], index: CocoIndex, **settings: Any) -> Dataset:
    """``build(index, **settings)``, memory-mapped from the cache, where it is put the first time.

    The key is everything the entries depend on: the builder's name, all its arguments (defaults
    included) and the content of the index. A cached copy that is damaged or incomplete is built
    again; processes may race for it.

    Args:
        build: ``build_entries`` or ``build_training_entries``.
        index: the images to draw from.
        **settings: the builder's other arguments.

    Raises:
        TypeError: ``settings`` do not fit the builder.
        UserError: as ``build``.
    """
    bound = inspect.signature(build).bind(index, **settings)
    bound.apply_defaults()
    arguments = {name: value for name, value in bound.arguments.items() if name != "index"}
    key = [_FORMAT, build.__name__, index.fingerprint, arguments]
    name = hashlib.sha256(json.dumps(key, default=list).encode()).hexdigest()[:32]
    folder = cache_root() / "entries" / name
    try:
        cached_folder(folder, lambda new: build(index, **settings).save_to_disk(new))
        return load_from_disk(str(folder))
    except OSError as error:  # or another process is making it again this very moment
        log.warning(
            "the entries can't be saved (%s) and stay in memory: set LAID_CACHE to a folder that "
            "can be written",
            error,
        )
        return build(index, **settings)


def _build(
    index: CocoIndex,
    role: str,
    plan: Sequence[tuple[int, int]],
    sizes: Iterable[int],
    seed: int,
    needles: Sequence[int],
    categories: Sequence[str] | None,
) -> Dataset:
    """Two entries for each (size, pair) of ``plan``; ``sizes`` are those that may occur in it."""
    sampler = HaystackSampler(index, categories)
    _check_sizes(sampler, sizes, needles)
    entries: list[HaystackEntry] = []
    for size, pair in tqdm(plan, f"drawing {role} haystacks", unit="pair", delay=1, mininterval=1):
        rng = stream(seed, role, size, pair)
        count = needles[int(rng.integers(len(needles)))]
        mode: Mode = "single" if count == 1 else ("all" if rng.integers(2) else "any")
        anchor, target, haystacks = sampler.draw(rng, size, count, mode)
        for offset, (answer, (images, needles_at)) in enumerate(haystacks.items()):
            entry = HaystackEntry(
                id=entry_id(role, size, 2 * pair + offset),
                question=ask(anchor, target, mode),
                answer=answer,
                anchor=anchor,
                target=target,
                mode=mode,
                size=size,
                images=tuple(index.files[images].tolist()),
                needles=tuple(needles_at.tolist()),
            )
            entries.append(entry)
    return dataset_of(entries)


def _check_sizes(sampler: HaystackSampler, sizes: Iterable[int], needles: Sequence[int]) -> None:
    if not needles or min(needles) < 1 or len(set(needles)) < len(needles):
        raise UserError(
            f"needles should be different numbers of 1 or more, such as 1 or 2 and 3; "
            f"got {list(needles)}."
        )
    for size in sizes:
        if size < max(needles):
            raise UserError(
                f"a haystack of {size} images cannot hold {max(needles)} needles. "
                f"Ask for sizes of {max(needles)} or more, or for fewer needles."
            )
        for count in needles:
            modes: tuple[Mode, ...] = ("single",) if count == 1 else ("all", "any")
            for mode in modes:
                sampler.check(size, count, mode)


def _check_even(name: str, count: int) -> None:
    if not 2 <= count <= MOST_ENTRIES or count % 2:
        raise UserError(
            f"{name} should be an even number from 2 to {MOST_ENTRIES:,}, because entries come in "
            f"pairs of a yes and a no; got {count}."
        )
