"""The entries of each stage: built from COCO, or read from where the user says."""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from laid.common.errors import UserError
from laid.common.file_hashes import file_hashes
from laid.data.coco_index import CocoIndex
from laid.data.entries import HaystackEntry, dataset_of
from laid.data.entry_args import PER_SIZE, SIZES, EvaluationArgs, PredictArgs, TrainArgs
from laid.data.haystack_builder import build_entries, build_training_entries, cached_entries
from laid.data.image_files import images_in
from laid.data.question_text import QuestionCheck
from laid.data.vhs_files import load_entries

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EntrySource:
    """Entries over one COCO folder.

    Attributes:
        root: COCO folder.
        needles: numbers of needles that a built haystack may have.
        min_area: smallest share of an image that an object asked about covers.
        seed: of entries that are built, and of the order of images that have none.
        check: of all questions.
    """

    root: Path
    needles: Sequence[int]
    min_area: float
    seed: int
    check: QuestionCheck = field(default_factory=QuestionCheck)

    def training(self, args: TrainArgs) -> Dataset:
        """Training entries.

        Raises:
            UserError: as ``load_entries`` and ``build_training_entries``.
        """
        if args.source is not None:
            entries = self._load(args.source, "train")
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

    def evaluation(self, role: str, args: EvaluationArgs) -> tuple[Dataset, dict[int, int]]:
        """Validation or test entries, and how many there are of each size, left out or not.

        Raises:
            UserError: as ``load_entries`` and ``build_entries``; a size that no source has; two
                entries of one id.
        """
        if args.source is None:
            sizes = SIZES if args.sizes is None else args.sizes
            entries = self.built(role, args.split, sizes, args.per_size or PER_SIZE)
            return entries, _by_size(entries)
        entries = self._read(role, args.source)
        if twice := [name for name, count in Counter(entries["id"]).items() if count > 1]:
            raise UserError(
                f"data.{role}.source: {len(twice)} ids are there twice, such as {twice[0]!r}; an "
                "id names one entry"
            )
        chosen = _choose(entries, args.sizes, args.per_size, f"data.{role}.sizes")
        used, available = _by_size(chosen), _by_size(entries)
        if used != available:
            left = (f"{used.get(k, 0)} of {n} entries of {k} images" for k, n in available.items())
            log.warning("data.%s.source: %s (data.%s.sizes, per_size)", role, ", ".join(left), role)
        return chosen, available

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
        if args.source is None:
            return self.built(role, args.split, sizes, per_size)
        return _choose(self._read("validate", args.source), sizes, per_size, f"{role}.sizes")

    def fingerprint(self, entries: Dataset) -> str:
        """A hash of entries and of the content of each image file that they show."""
        digest = hashlib.sha256()
        for entry in entries:
            digest.update(repr(sorted(entry.items())).encode())
        names = sorted({name for images in entries["images"] for name in images})
        hashes = file_hashes(self.root / name for name in names)
        digest.update(repr(list(zip(names, hashes, strict=True))).encode())
        return digest.hexdigest()[:16]

    def prediction(self, args: PredictArgs) -> tuple[Path, Dataset]:
        """Where the images are, and what to answer.

        Raises:
            UserError: neither a source nor images and a question, or both.
        """
        if args.source is not None:
            if args.images or args.question:
                raise UserError("data.predict: give a source, or images and a question, not both")
            return self.root, self._load(args.source, "predict")
        if not args.images or not args.question:
            raise UserError(
                "nothing to answer: give --data.predict.source FILE.json, or "
                '--data.predict.images FOLDER --data.predict.question "…"'
            )
        self.check.text(args.question, "data.predict.question")
        names = tuple(path.name for path in images_in(Path(args.images)))
        entry = HaystackEntry(id="question", question=args.question, size=len(names), images=names)
        return Path(args.images), dataset_of([entry])

    def _index(self, split: str) -> CocoIndex:
        index = CocoIndex.load(self.root, split, self.min_area, check_images=True)
        for name in index.categories:
            self.check.text(name, f"instances_{split}.json: the category {name!r}")
        return index

    def _load(self, source: str, role: str) -> Dataset:
        entries = load_entries(source, self.root, role=role, seed=self.seed)
        self.check.entries(entries, source)
        return entries

    def _read(self, role: str, sources: Sequence[str]) -> Dataset:
        """Several files number their entries each by itself: there, an id begins with the file."""
        parts = [self._load(source, role) for source in sources]
        if len(parts) > 1:
            for at, source in enumerate(sources):
                ids = [f"{source}:{name}" for name in parts[at]["id"]]
                parts[at] = parts[at].remove_columns("id").add_column("id", ids)
        return concatenate_datasets(parts)


def _by_size(entries: Dataset) -> dict[int, int]:
    return dict(sorted(Counter(entries["size"]).items()))


def _choose(
    entries: Dataset, sizes: Sequence[int] | None, per_size: int | None, setting: str
) -> Dataset:
    """The first ``per_size`` entries of each of ``sizes``, which ``setting`` gives."""
    available = _by_size(entries)
    if missing := sorted(set(sizes or ()) - available.keys()):
        raise UserError(
            f"{setting}: no source has haystacks of {missing} images; there are haystacks of "
            f"{list(available)}"
        )
    kept: list[int] = []
    count: Counter[int] = Counter()
    for at, size in enumerate(entries["size"]):
        count[size] += 1
        if (sizes is None or size in sizes) and (per_size is None or count[size] <= per_size):
            kept.append(at)
    return entries.select(kept)
