"""The entries of each stage: built from COCO, or read from where the user says."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from laid.common.errors import UserError
from laid.common.file_hashes import file_hashes
from laid.data.coco_index import CocoIndex
from laid.data.conversation_files import Wanted, load_conversations, open_rows, source_name
from laid.data.entries import HaystackEntry, dataset_of
from laid.data.entry_args import BUILT, PER_SIZE, SIZES, EvaluationArgs, PredictArgs, TrainArgs
from laid.data.haystack_builder import build_entries, build_training_entries, cached_entries
from laid.data.image_files import images_in
from laid.data.image_names import ImageRoots, resolve_under, without_source
from laid.data.mixture import Mixture
from laid.data.question_text import QuestionCheck
from laid.data.vhs_files import load_entries

log = logging.getLogger(__name__)

Available = dict[str, dict[int, int]]
"""By source, as ``by_source``, how many entries there are of each size."""


@dataclass(frozen=True)
class EntrySource:
    """Entries over one COCO folder, and of conversations.

    Attributes:
        root: COCO folder.
        needles: numbers of needles that a built haystack may have.
        min_area: smallest share of an image that an object asked about covers.
        seed: of entries that are built, and of the order of images that have none.
        check: of all questions.
        image_root: folder of the images that conversations name; None: that of each source.
        folders: by source of conversations that was read, the folder of its images.
    """

    root: Path
    needles: Sequence[int]
    min_area: float
    seed: int
    check: QuestionCheck = field(default_factory=QuestionCheck)
    image_root: str | None = None
    folders: dict[str, Path] = field(default_factory=dict)

    @property
    def roots(self) -> ImageRoots:
        """Where the images of all entries are."""
        return ImageRoots(self.root, self.folders)

    def mixed(self, args: TrainArgs) -> tuple[Dataset, Mixture | None]:
        """Training entries of all sources, and how they are mixed, if they are.

        Raises:
            UserError: as ``training`` and ``Mixture.of``.
        """
        if args.mixture is None:
            return self.training(args), None
        to_train = Wanted(trained=args.turns)
        parts = [
            self.training(replace(args, mixture=None))
            if name == BUILT
            else self._load(name, "train", to_train)
            for name in args.mixture
        ]
        mixture = Mixture.of(args.mixture, list(map(len, parts)))
        return _joined(list(args.mixture), parts), mixture

    def training(self, args: TrainArgs) -> Dataset:
        """Training entries of a source, or built.

        Raises:
            UserError: as ``load_entries`` and ``build_training_entries``.
        """
        if args.source is not None:
            entries = self._load(args.source, "train", Wanted(trained=args.turns))
            if args.entries is not None and args.entries < len(entries):
                used = f"{args.entries} of {len(entries)} entries of {args.source}"
                log.warning("training on the first %s (data.train.entries)", used)
                entries = entries.select(range(args.entries))
            return entries
        return cached_entries(
            build_training_entries,
            self._index(args.split),
            n=args.count,
            min_size=args.min_size,
            max_size=args.max_size,
            seed=self.seed,
            needles=self.needles,
        )

    def evaluation(self, role: str, args: EvaluationArgs) -> tuple[Dataset, Available]:
        """Validation or test entries, and how many there are, left out or not.

        Raises:
            UserError: as ``load_entries`` and ``build_entries``; a size that no source has; two
                entries of one id.
        """
        if args.source is None:
            entries = self._built_for(role, args)
            return entries, _available(entries)
        entries = self._read(role, args)
        if twice := [name for name, count in Counter(entries["id"]).items() if count > 1]:
            raise UserError(
                f"data.{role}.source: {len(twice)} ids are there twice, such as {twice[0]!r}; an "
                "id names one entry"
            )
        if BUILT in args.source:
            return entries, _available(entries)
        chosen = _choose(entries, args.sizes, args.per_size, f"data.{role}.sizes")
        used, available = Counter(chosen["size"]), _by_size(entries)
        if used != available:
            left = (f"{used[k]} of {n} entries of {k} images" for k, n in available.items())
            log.warning("data.%s.source: %s (data.%s.sizes, per_size)", role, ", ".join(left), role)
        return chosen, _available(entries)

    def _built_for(self, role: str, args: EvaluationArgs) -> Dataset:
        sizes = SIZES if args.sizes is None else args.sizes
        return self.built(role, args.split, sizes, args.per_size or PER_SIZE)

    def built(self, role: str, split: str, sizes: Sequence[int], per_size: int) -> Dataset:
        """Entries built from a split; the role makes them others than another role's."""
        return cached_entries(
            build_entries,
            self._index(split),
            role=role,
            sizes=list(sizes),
            per_size=per_size,
            seed=self.seed,
            needles=self.needles,
        )

    def probes(
        self, role: str, args: EvaluationArgs, sizes: Sequence[int], per_size: int
    ) -> Dataset:
        """Entries for ``role`` to look into a model with: of the validation's own kind, but not its
        own."""
        if BUILT in (args.source or {BUILT}):
            return self.built(role, args.split, sizes, per_size)
        return _choose(self._read("validate", args), sizes, per_size, f"{role}.sizes")

    def fingerprint(self, entries: Dataset) -> str:
        """A hash of entries and of the content of each image file that they show."""
        digest = hashlib.sha256()
        for entry in entries:
            digest.update(repr(sorted(_portable(entry).items())).encode())
        names = sorted({name for images in entries["images"] for name in images})
        hashes = file_hashes(resolve_under(self.roots, name) for name in names)
        own = [without_source(n) if n.partition("::")[0] in self.folders else n for n in names]
        digest.update(repr(sorted(zip(own, hashes, strict=True))).encode())
        return digest.hexdigest()[:16]

    def prediction(self, args: PredictArgs) -> tuple[ImageRoots, Dataset]:
        """Where the images are, and what to answer.

        Raises:
            UserError: neither a source nor images and a question, or both.
        """
        if args.source is not None:
            if args.images or args.question:
                raise UserError("data.predict: give a source, or images and a question, not both")
            return self.roots, self._load(args.source, "predict", Wanted(answered=False))
        if not args.images or not args.question:
            raise UserError(
                "nothing to answer: give --data.predict.source FILE.json, or "
                '--data.predict.images FOLDER --data.predict.question "…"'
            )
        self.check.text(args.question, "data.predict.question")
        names = tuple(path.name for path in images_in(Path(args.images)))
        entry = HaystackEntry(id="question", question=args.question, size=len(names), images=names)
        return ImageRoots(Path(args.images)), dataset_of([entry])

    def _index(self, split: str) -> CocoIndex:
        index = CocoIndex.load(self.root, split, self.min_area, check_images=True)
        for name in index.categories:
            self.check.text(name, f"instances_{split}.json: the category {name!r}")
        return index

    def _load(self, source: str, role: str, wanted: Wanted) -> Dataset:
        if (rows := open_rows(source, role)) is not None:
            entries, folder = load_conversations(rows, self.image_root, self.check, wanted)
            self.folders[source] = folder
            return entries
        entries = load_entries(source, self.root, role=role, seed=self.seed)
        self.check.entries(entries, source)
        return entries

    def _read(self, role: str, args: EvaluationArgs) -> Dataset:
        sources = args.source or []
        parts = [
            self._built_for(role, args)
            if one == BUILT
            else self._load(one, role, Wanted(scoring=args.scoring_of(one)))
            for one in sources
        ]
        haystacks = [s for s, part in zip(sources, parts, strict=True) if not _talks(part)]
        if wrong := args.scoring_unused(haystacks):
            raise UserError(
                f"data.{role}.scoring {args.scoring!r}: {wrong} has haystacks, which are always "
                "yes-no; leave it out"
            )
        return _joined(sources, parts)


def _talks(entries: Dataset) -> bool:
    """Whether they are conversations."""
    return "turns" in entries.column_names


def _joined(sources: Sequence[str], parts: list[Dataset]) -> Dataset:
    """All parts. Several files number their haystacks each by itself: there, an id begins with the
    file."""
    if sum(not _talks(part) for part in parts) > 1:
        for at, part in enumerate(parts):
            if not _talks(part):
                ids = [f"{sources[at]}:{name}" for name in part["id"]]
                parts[at] = part.remove_columns("id").add_column("id", ids)
    return concatenate_datasets(parts)


def _portable(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry without the path of its source, where the same file may be called otherwise."""
    source = entry.pop("source", None)
    if source is None:
        return {name: value for name, value in entry.items() if value is not None}
    return {**entry, "images": [without_source(name) for name in entry["images"]]}


def by_source(entries: Dataset) -> dict[str, Dataset]:
    """The entries of each source of conversations, and under "" those of haystacks."""
    sources = _sources(entries)
    at: dict[str, list[int]] = {}
    for index, source in enumerate(sources):
        at.setdefault(source, []).append(index)
    return {source: entries.select(rows) for source, rows in at.items()}


def short_names(sources: Iterable[str], setting: str, haystacks: str = "") -> dict[str, str]:
    """What sources, as those of ``by_source``, are called in folders and logs.

    Args:
        setting: gives them, for the message.
        haystacks: what those of haystacks are called.

    Raises:
        UserError: two would be called the same.
    """
    names = {source: source_name(source) if source else haystacks for source in sources}
    for source, name in names.items():
        if twice := [other for other in names if names[other] == name and other != source]:
            raise UserError(
                f"{setting}: {source or 'haystacks'!r} and {twice[0] or 'haystacks'!r} would both "
                f"be reported as {name!r}: rename one, or give one after the other"
            )
    return names


def _sources(entries: Dataset) -> list[str]:
    if "source" not in entries.column_names:
        return [""] * len(entries)
    return [source or "" for source in entries["source"]]


def _available(entries: Dataset) -> Available:
    return {source: _by_size(some) for source, some in by_source(entries).items()}


def _by_size(entries: Dataset) -> dict[int, int]:
    return dict(sorted(Counter(entries["size"]).items()))


def _choose(
    entries: Dataset, sizes: Sequence[int] | None, per_size: int | None, setting: str
) -> Dataset:
    """The first ``per_size`` entries of each of ``sizes``, which ``setting`` gives, of each source
    of conversations and of all haystacks."""
    available = _by_size(entries)
    if missing := sorted(set(sizes or ()) - available.keys()):
        raise UserError(
            f"{setting}: no source has haystacks of {missing} images; there are haystacks of "
            f"{list(available)}"
        )
    kept: list[int] = []
    count: Counter[tuple[str, int]] = Counter()
    for at, key in enumerate(zip(_sources(entries), entries["size"], strict=True)):
        count[key] += 1
        if (sizes is None or key[1] in sizes) and (per_size is None or count[key] <= per_size):
            kept.append(at)
    return entries.select(kept)
