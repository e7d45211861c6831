"""``HaystackDataModule``: entries and images to batches, for Lightning."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import lightning as L
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from laid.data.entries import shown_images
from laid.data.entry_args import (
    EvaluationArgs,
    PredictArgs,
    TrainArgs,
    check_numbers,
    check_training,
)
from laid.data.entry_checks import check_entries
from laid.data.entry_source import EntrySource
from laid.data.image_files import check_images
from laid.data.loader import (
    EpochSampler,
    HaystackLoader,
    padded_loader,
    training_loader,
    training_order,
)
from laid.data.mixture import Mixture
from laid.data.packing import Packing, packing_of
from laid.data.prompt import PREFIX, Batch, Collate, HaystackDataset, PromptEncoder
from laid.data.question_text import QuestionCheck
from laid.distributed.process_group import kept_for_setup, on_rank_zero, raise_kept, raised_on_all
from laid.minicoco.drawing import MINICOCO, coco_folder
from laid.signals.model_inputs import ReadAhead
from laid.vlm.processor import ProcessorArgs, load_processor


class HaystackDataModule(L.LightningDataModule):
    """Visual haystacks over COCO images."""

    # fmt: off
    LEARNED = (
        "coco_root", "processor", "revision", "train", "needles", "min_area", "prefix",
        "min_pixels", "max_pixels", "max_length", "global_batch_size", "group_by_size", "seed",
        "order_seed", "image_root",
    )
    """Settings that decide what is learned."""
    NOT_LEARNED = (
        "batch_size", "pack_tokens", "eval_batch_size", "cache_features", "feature_gib", "workers",
        "max_answer_tokens", "validate", "test", "predict",
    )
    """Settings that say how it is computed, and what is tested."""
    # fmt: on

    def __init__(
        self,
        coco_root: str = MINICOCO,
        processor: str = "tiny/student",
        revision: str | None = None,
        train: TrainArgs | None = None,
        validate: EvaluationArgs | None = None,
        test: EvaluationArgs | None = None,
        predict: PredictArgs | None = None,
        needles: Sequence[int] = (1,),
        min_area: float = 0.001,
        prefix: str = PREFIX,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        max_length: int | None = None,
        max_answer_tokens: int = 512,
        image_root: str | None = None,
        cache_features: bool | str = False,
        feature_gib: float = 4.0,
        batch_size: int = 1,
        pack_tokens: int | None = None,
        global_batch_size: int = 8,
        eval_batch_size: int = 1,
        group_by_size: bool = False,
        workers: int = 2,
        seed: int = 0,
        order_seed: int = 0,
    ):
        """
        Args:
            coco_root: COCO folder with annotations/ and image folders; minicoco is a small drawn
                one, made on first use.
            processor: Folder or hub id of tokenizer and image processor; the command line takes
                the student's.
            revision: Its revision on the hub; the command line takes the student's.
            train: Training entries.
            validate: Validation entries.
            test: Test entries.
            predict: What to answer in prediction.
            needles: Numbers of needles that a built haystack may have: 1, or 2 and 3 for the
                questions about "all images with a ...".
            min_area: Smallest share of an image that an object must cover to be asked about.
            prefix: Text before every question about a haystack; conversations have their own.
            min_pixels: Images with fewer pixels are enlarged. None: as the processor says.
            max_pixels: Images with more pixels are reduced. None: as the processor says.
            max_length: Longest input in tokens; a longer entry is an error. None: no limit.
            max_answer_tokens: Longest answer of a conversation in training; a longer is an error.
            image_root: Folder of the images that conversations name. None: that of each file.
            cache_features: Compute the frozen vision towers' features of each image once, before
                a stage begins, and give the models these in place of pixels. true: in memory. A
                folder: on disk, for later runs too. The vision tower must be frozen.
            feature_gib: Most memory, or disk, for these features, in GiB and for each model.
            batch_size: Haystacks of a micro-batch on one device; fewer where a device's part of
                global_batch_size is smaller.
            pack_tokens: In place of batch_size, tokens of an average micro-batch: haystacks are
                put one after the other without padding, each seeing itself alone.
            global_batch_size: Haystacks of one optimizer step over all devices; gradient
                accumulation follows from it. The remainder of an epoch that does not fill a step
                is dropped; which haystacks these are changes with the epoch.
            eval_batch_size: Haystacks of a batch on one device in validation, test, prediction.
            group_by_size: Train on haystacks of similar sizes in a step, to save padding.
            workers: Processes that read and encode images, for each device.
            seed: Seed of the entries that are built.
            order_seed: Seed of the training order; the command line takes seed_everything.
        """
        super().__init__()
        self.coco_root = coco_root
        self.processor_args = ProcessorArgs(processor, revision, min_pixels, max_pixels)
        self.train_args = train or TrainArgs()
        self.validate_args = validate or EvaluationArgs(sizes=[2, 10, 20], per_size=20)
        self.test_args = test or EvaluationArgs()
        self.predict_args = predict or PredictArgs()
        self.needles = tuple(needles)
        self.min_area = min_area
        self.prefix = prefix
        self.max_length = max_length
        self.max_answer_tokens = max_answer_tokens
        self.image_root = image_root
        self.cache_features = cache_features
        self.feature_gib = feature_gib
        self.batch_size = batch_size
        self.pack_tokens = pack_tokens
        self.global_batch_size = global_batch_size
        self.eval_batch_size = eval_batch_size
        self.group_by_size = group_by_size
        self.workers = workers
        self.seed = seed
        self.order_seed = order_seed
        check_numbers(vars(self))
        self.grids: dict[str, Tensor] = {}
        self.ahead: list[ReadAhead] = []
        self.answered: Callable[[], Collection[str]] = tuple
        """Ids of test entries to leave out; called once a test's checkpoint is read."""
        self.image_sizes: dict[str, tuple[int, int]] = {}
        """Width and height of each image of the stage, upright; on one process of each node."""
        self._packing: Packing | None = None
        self._train_loader: HaystackLoader | None = None
        self._mixture: Mixture | None = None
        self._place: dict[str, int] | None = None

    @kept_for_setup
    def prepare_data(self) -> None:
        """Draws the mini-COCO if ``coco_root`` names it; not for a question about own images."""
        if self.predict_args.images is None:
            coco_folder(self.coco_root)

    @raised_on_all
    def setup(self, stage: str) -> None:
        """Loads or builds the entries of a stage: fit, validate, test or predict.

        Of a test, ``test_entries`` are asked; ``test_available`` counts, by haystack size, all that
        the sources have.
        """
        raise_kept(self.trainer)
        # Of this stage; the models learn its images again.
        self.grids, self.ahead, self._packing = {}, [], None
        processor = load_processor(self.processor_args)
        every_turn = self.train_args.turns == "all"
        self.encoder = PromptEncoder(processor, self.prefix, self.max_length, every_turn)
        tokens = processor.tokenizer.get_added_vocab()
        check = QuestionCheck(tokens, lambda x: len(processor.ids(x)), self.max_answer_tokens)
        options = (self.needles, self.min_area, self.seed, check, self.image_root)
        self.source = EntrySource(self.coco_root, *options)
        check.text(self.prefix, "data.prefix")
        if stage == "fit":
            self.train_entries, self._mixture = self.source.mixed(self.train_args)
            args = self.train_args, self.validate_args
            check_training(self._epoch_length, self.global_batch_size, *args)
        if stage in ("fit", "validate"):
            self.validate_entries, _ = self.source.evaluation("validate", self.validate_args)
        if stage == "test":
            self.test_entries, self.test_available = self.source.evaluation("test", self.test_args)
        if stage == "predict":
            self.root, self.predict_entries = self.source.prediction(self.predict_args)
        else:
            self.root = self.source.roots
        self.image_sizes = {}
        for part, entries in self.entries_of(stage).items():
            self._check(f"data.{part}", entries, trained=part == "train")

    @raised_on_all
    def _check(self, setting: str, entries: Dataset, trained: bool) -> None:
        """Before the first step, so that no entry ends a run in the middle."""
        if self.trainer is None or self.trainer.local_rank == 0:  # one process of each node
            shown = shown_images(entries) - self.image_sizes.keys()
            self.image_sizes |= check_images(self.root, shown, self.encoder.patches)
            check_entries(setting, self.encoder, entries, self.image_sizes, trained)

    def probes(
        self, role: str, sizes: Sequence[int] | None, per_size: int, of_built: Sequence[int]
    ) -> Dataset:
        """Entries as ``EntrySource.probes``, checked as those of a stage are."""
        entries = self.source.probes(role, self.validate_args, sizes, per_size, of_built)
        self._check(role, entries, trained=True)
        return entries

    @property
    def _epoch_length(self) -> int:
        return len(self.train_entries) if self._mixture is None else self._mixture.total

    def entries_of(self, stage: str) -> dict[str, Dataset]:
        """The entries of a stage, which is fit's "train" and "validate", or by its own name."""
        parts = ("train", "validate") if stage == "fit" else (stage,)
        return {part: getattr(self, part + "_entries") for part in parts}

    @property
    def packing(self) -> Packing | None:
        """How the haystacks of a step are packed, as ``packing_of``; None where they are padded.
        All ranks ask for it together."""
        if self._packing is None and self.pack_tokens is not None:
            shown, encoder = (self.train_entries, self.image_sizes), self.encoder
            tokens = on_rank_zero(lambda: encoder.lengths(*shown))
            step = self.global_batch_size, self.rank()["world_size"]
            family, mixture = encoder.processor.family, self._mixture
            drawn = None if mixture is None else mixture.epoch(self.order_seed, 0)
            self._packing = packing_of(tokens, family, self.pack_tokens, *step, drawn=drawn)
        return self._packing

    def train_dataloader(self) -> HaystackLoader:
        """Training batches, padded on the right, shuffled again each epoch."""
        data, step = self._dataset(self.train_entries, with_answer=True), self.global_batch_size
        sizes = list(self.train_entries["size"]) if self.group_by_size else None
        packing, rank = self.packing, self.rank()
        how = {"seed": self.order_seed, "mixture": self._mixture, **({} if packing else rank)}
        order = training_order(self._epoch_length, step, sizes, **how)
        how_read = self.batch_size, packing, rank["rank"], self.workers
        self._train_loader = training_loader(data, order, *how_read)
        if self._place is not None:
            self._train_loader.seek(self._place)
        return self._train_loader

    def state_dict(self) -> dict[str, Any]:
        """The position in the training order of haystacks; Lightning saves it in checkpoints."""
        return {} if self._train_loader is None else self._train_loader.place()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes the training order at a saved position."""
        self._place = state or None
        # Sharded runs are restored after the schedule has counted the loader's batches.
        if self._place is not None and self._train_loader is not None:
            self._train_loader.seek(self._place)

    def val_dataloader(self) -> DataLoader:
        """Validation prompts, padded on the left."""
        return self._prompts(self.validate_entries)

    def test_dataloader(self) -> DataLoader:
        """Test prompts that are not answered yet, in order of size."""
        ids, answered = self.test_entries["id"], frozenset(self.answered())
        left = [at for at, entry in enumerate(ids) if entry not in answered]
        return self._prompts(self.test_entries.select(left))

    def predict_dataloader(self) -> DataLoader:
        return self._prompts(self.predict_entries)

    def probe(self, entries: Dataset, device: Any, with_answer: bool = True) -> Iterator[Batch]:
        """Entries, with or without their answers, as batches of one, to analyse a model with."""
        collate = Collate(self.encoder.pad_id, "right")
        data = self._dataset(entries, with_answer)
        for at in range(len(data)):
            yield collate([data[at]]).to(device)

    def one_by_one(self, sampler: Sampler[int]) -> DataLoader:
        """Training entries with answers as batches of one, in the order of ``sampler``."""
        data = self._dataset(self.train_entries, with_answer=True)
        return padded_loader(data, sampler, 1, "right", self.workers)

    def _prompts(self, entries: Dataset) -> DataLoader:
        data = self._dataset(entries, with_answer=False)
        sampler = EpochSampler(len(data), shuffle=False, even=True, **self.rank())
        return padded_loader(data, sampler, self.eval_batch_size, "left", self.workers)

    def _dataset(self, entries: Dataset, with_answer: bool) -> HaystackDataset:
        return HaystackDataset(
            entries, self.root, self.encoder, with_answer, self.grids, self.ahead
        )

    def rank(self) -> dict[str, Any]:
        """Rank and world size, as options of ``EpochSampler``."""
        if self.trainer is None:
            return {"rank": 0, "world_size": 1}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
