"""The entries of each stage: built from COCO, or read from where the user says."""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from laid.common.errors import UserError
from laid.common.file_hashes import file_hashes
from laid.data.coco_index import CocoIndex
from laid.data.conversation_files import Wanted, load_conversations, open_rows
from laid.data.entries import HaystackEntry, dataset_of, shown_images
from laid.data.entry_args import BUILT, PER_SIZE, SIZES, EvaluationArgs, PredictArgs, TrainArgs
from laid.data.entry_groups import Available, available_of, by_size, chosen
from laid.data.haystack_builder import build_entries, build_training_entries, cached_entries
from laid.data.image_files import images_in
from laid.data.image_names import ImageRoots, resolve_under, without_source
from laid.data.mixture import Mixture
from laid.data.question_text import QuestionCheck
from laid.data.vhs_files import load_entries
from laid.minicoco.drawing import coco_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EntrySource:
    """Entries over one COCO folder, and of conversations.

    Attributes:
        coco_root: COCO folder, or ``MINICOCO``.
        needles: numbers of needles that a built haystack may have.
        min_area: smallest share of an image that an object asked about covers.
        seed: of entries that are built, and of the order of images that have none.
        check: of all questions.
        image_root: folder of the images that conversations name; None: that of each source.
        folders: by source of conversations that was read, the folder of its images.
        loaded: what was read, by source, role and what was wanted of it.
    """

    coco_root: str | Path
    needles: Sequence[int]
    min_area: float
    seed: int
    check: QuestionCheck = field(default_factory=QuestionCheck)
    image_root: str | None = None
    folders: dict[str, Path] = field(default_factory=dict)
    loaded: dict[tuple[str, str, Wanted], Dataset] = field(default_factory=dict, repr=False)

    @cached_property
    def root(self) -> Path:
        """COCO folder; the drawn one is drawn when it is first asked for."""
        return coco_folder(self.coco_root)

    @property
    def roots(self) -> ImageRoots:
        """Where the images of all entries are."""
        return ImageRoots(self.root, self.folders)

    def mixed(self, args: TrainArgs) -> tuple[Dataset, Mixture | None]:
        """Training entries of all sources, and how they are mixed, if they are.

        Raises:
            UserError: as ``training`` and ``Mixture.of``; ``turns`` is set and there are no
                conversations.
        """
        entries, mixture = self._mixed(args)
        if args.turns == "all" and not _talks(entries):
            raise UserError(
                "data.train.turns all is of conversations, and the training entries are "
                "haystacks; leave it out"
            )
        return entries, mixture

    def _mixed(self, args: TrainArgs) -> tuple[Dataset, Mixture | None]:
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
        drawn = zip(args.mixture, mixture.drawn, mixture.counts, strict=True)
        shares = ", ".join(f"{name} {of:,} (of {count:,})" for name, of, count in drawn)
        log.info("entries of an epoch: %s", shares)
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
            _check_scoring(role, args, [BUILT])
            entries = self._built_for(role, args)
            return entries, available_of(entries)
        entries = self._read(role, args)
        if twice := [name for name, count in Counter(entries["id"]).items() if count > 1]:
            raise UserError(
                f"data.{role}.source: {len(twice)} ids are there twice, such as {twice[0]!r}; an "
                "id names one entry"
            )
        if BUILT in args.source:
            return entries, available_of(entries)
        kept = chosen(entries, args.sizes, args.per_size, f"data.{role}.sizes")
        used, available = Counter(kept["size"]), by_size(entries)
        if used != available:
            left = (f"{used[k]} of {n} entries of {k} images" for k, n in available.items())
            log.warning("data.%s.source: %s (data.%s.sizes, per_size)", role, ", ".join(left), role)
        return kept, available_of(entries)

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
        self,
        role: str,
        args: EvaluationArgs,
        sizes: Sequence[int] | None,
        per_size: int,
        of_built: Sequence[int],
    ) -> Dataset:
        """Entries for ``role`` to look into a model with: of the validation's own kind; where it is
        built, not its own.

        Args:
            sizes: None: ``of_built`` where the validation is built, else all that have images.
        """
        if BUILT in (args.source or {BUILT}):
            return self.built(role, args.split, of_built if sizes is None else sizes, per_size)
        entries = self._read("validate", args)
        if sizes is None:
            sizes = sorted({*entries["size"]} - {0})
        return chosen(entries, sizes, per_size, f"{role}.sizes")

    def fingerprint(self, entries: Dataset) -> str:
        """A hash of entries and of the content of each image file that they show."""
        digest = hashlib.sha256()
        for entry in entries:
            digest.update(repr(sorted(_portable(entry).items())).encode())
        names = sorted(shown_images(entries))
        hashes = file_hashes(resolve_under(self.roots, name) for name in names)
        content = dict(zip(names, hashes, strict=True))
        own = [(self.roots.split(name)[1], content[name]) for name in names]
        digest.update(repr(sorted(own)).encode())
        if len({name for name, _ in own}) < len(own):  # else the entries say whose each is
            of_entries = [content[name] for images in entries["images"] for name in images]
            digest.update(repr(of_entries).encode())
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
        """Read once, however many ask."""
        key = source, role, wanted
        if key not in self.loaded:
            self.loaded[key] = self._read_source(*key)
        return self.loaded[key]

    def _read_source(self, source: str, role: str, wanted: Wanted) -> Dataset:
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
        _check_scoring(role, args, haystacks)
        return _joined(sources, parts)


def _check_scoring(role: str, args: EvaluationArgs, haystacks: Sequence[str]) -> None:
    if wrong := args.scoring_unused(haystacks):
        raise UserError(
            f"data.{role}.scoring {args.scoring!r}: {wrong} has haystacks, which are always "
            "yes-no; leave it out"
        )


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
