"""The entries of each stage: built from COCO, or read from where the user says."""

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from laid.common.errors import UserError
from laid.data.coco_index import CocoIndex
from laid.data.entries import HaystackEntry, dataset_of
from laid.data.entry_args import PER_SIZE, SIZES, EvaluationArgs, PredictArgs, TrainArgs
from laid.data.haystack_builder import build_entries, build_training_entries, cached_entries
from laid.data.image_files import images_in
from laid.data.question_text import QuestionCheck
from laid.data.vhs_files import load_entries

log = logging.getLogger(__name__)


class EntrySource:
    """Entries over one COCO folder."""

    def __init__(
        self,
        root: Path,
        needles: Sequence[int],
        min_area: float,
        seed: int,
        control_tokens: Collection[str] = (),
    ):
        """
        Args:
            root: COCO folder.
            needles: numbers of needles that a built haystack may have.
            min_area: smallest share of an image that an object asked about covers.
            seed: of entries that are built, and of the order of images that have none.
            control_tokens: texts that no question may hold, since a tokenizer reads them otherwise.
        """
        self.root = root
        self.needles = tuple(needles)
        self.min_area = min_area
        self.seed = seed
        self.check = QuestionCheck(control_tokens)

    def training(self, args: TrainArgs) -> Dataset:
        """Training entries.

        Raises:
            UserError: as ``load_entries`` and ``build_training_entries``.
        """
        if args.source is not None:
            entries = self._load(args.source, "train")
            if args.entries is None or args.entries >= len(entries):
                return entries
            log.warning(
                "training on the first %d of %d entries of %s (data.train.entries)",
                args.entries,
                len(entries),
                args.source,
            )
            return entries.select(range(args.entries))
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
        entries = concatenate_datasets([self._read(s, role, args.source) for s in args.source])
        twice = [name for name, count in Counter(entries["id"]).items() if count > 1]
        if twice:
            raise UserError(
                f"data.{role}.source: {len(twice)} ids are there twice, such as {twice[0]!r}; an "
                "id names one entry"
            )
        chosen = _choose(entries, args.sizes, args.per_size, f"data.{role}.sizes")
        used, available = _by_size(chosen), _by_size(entries)
        if used != available:
            counts = (
                f"{used.get(size, 0)} of {n} entries of {size} images"
                for size, n in available.items()
                if used.get(size) != n
            )
            log.warning(
                "data.%s.source: %s (data.%s.sizes, per_size)", role, ", ".join(counts), role
            )
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

    def probes(self, args: EvaluationArgs, sizes: Sequence[int], per_size: int) -> Dataset:
        """Entries to look into a model with: of the validation's own kind, but not its own."""
        if args.source is None:
            return self.built("head_flow", args.split, sizes, per_size)
        read = [self._read(source, "validate", args.source) for source in args.source]
        return _choose(concatenate_datasets(read), sizes, per_size, "head_flow.sizes")

    def prediction(self, args: PredictArgs) -> tuple[Path, Dataset]:
        """Where the images are, and what to answer.

        Raises:
            UserError: neither a source nor images and a question, or both.
        """
        if args.source is not None and (args.images or args.question):
            raise UserError(
                "data.predict: give either a source, or images and a question, not both"
            )
        if args.source is not None:
            return self.root, self._load(args.source, "predict")
        if not args.images or not args.question:
            raise UserError(
                "nothing to answer: give --data.predict.source FILE.json, or "
                '--data.predict.images FOLDER --data.predict.question "…"'
            )
        self.check.text(args.question, "data.predict.question")
        names = tuple(path.name for path in images_in(Path(args.images)))
        entry = HaystackEntry(
            id="question",
            question=args.question,
            answer="",
            anchor="",
            target="",
            mode="",
            size=len(names),
            images=names,
            needles=(),
        )
        return Path(args.images), dataset_of([entry])

    def _index(self, split: str) -> CocoIndex:
        index = CocoIndex.load_complete(self.root, split, self.min_area)
        for name in index.categories:
            self.check.text(name, f"instances_{split}.json: the category {name!r}")
        return index

    def _load(self, source: str, role: str) -> Dataset:
        entries = load_entries(source, self.root, role=role, seed=self.seed)
        self.check.entries(entries, source)
        return entries

    def _read(self, source: str, role: str, sources: Sequence[str]) -> Dataset:
        entries = self._load(source, role)
        if len(sources) == 1:
            return entries
        # Files number their entries each by itself.
        ids = [f"{source}:{name}" for name in entries["id"]]
        return entries.remove_columns("id").add_column("id", ids)


def _by_size(entries: Dataset) -> dict[int, int]:
    return dict(sorted(Counter(entries["size"]).items()))


def _choose(
    entries: Dataset, sizes: Sequence[int] | None, per_size: int | None, setting: str
) -> Dataset:
    """The first ``per_size`` entries of each of ``sizes``, which ``setting`` gives."""
    available = _by_size(entries)
    missing = sorted(set(sizes or ()) - available.keys())
    if missing:
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
