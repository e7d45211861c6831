"""From a haystack entry and its images to model inputs: images first, question last."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import datasets
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.fabric.utilities.apply_func import apply_to_collection
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info
from tqdm import tqdm

from laid.common.errors import UserError
from laid.data.entries import HaystackEntry, shown_images
from laid.data.image_files import patches_of
from laid.data.image_names import ImageRoots
from laid.signals.model_inputs import IGNORED, Answers, ModelInputs, ReadAhead, pad_batch
from laid.vlm.processor import ImageTextProcessor, user_turn

PREFIX = "You are given a set of images. Please answer the following question in Yes or No: "
"""What Visual Haystacks puts before each question."""

Side = Literal["left", "right"]
COUNTED = 1000
"""Entries whose tokens are counted at a time."""


@dataclass(frozen=True)
class Sample:
    """One haystack, encoded without batch dimension; ``counted`` is that of ``Batch``."""

    inputs: ModelInputs
    entry: HaystackEntry
    counted: bool


@dataclass(frozen=True)
class Batch:
    """Padded model inputs, and the entries that they were made of.

    Attributes:
        inputs: of all haystacks of the batch.
        entries: one a haystack.
        counted: one a haystack; False for an entry that is asked again only to give all ranks
            equally many (``EpochSampler``).
        weight: of its loss: its haystacks, relative to the other micro-batches of a step.
    """

    inputs: ModelInputs
    entries: Sequence[HaystackEntry]
    counted: Sequence[bool]
    weight: float = 1.0

    def to(self, device: torch.device) -> "Batch":
        """The batch with its inputs on ``device``; Lightning would otherwise rebuild every field
        and stop at frozen entries."""
        inputs = move_data_to_device(self.inputs, device)
        # Found before: there, the host would wait for the device.
        inputs.answers = Answers(**move_data_to_device(vars(self.inputs.answers), device))
        return replace(self, inputs=inputs)

    def pin_memory(self) -> "Batch":
        """The batch in memory that a GPU copies from while it computes; a DataLoader calls it."""
        return replace(self, inputs=apply_to_collection(self.inputs, Tensor, Tensor.pin_memory))


@dataclass(frozen=True, eq=False)
class PromptEncoder:
    """Renders entries with the processor's chat template."""

    processor: ImageTextProcessor
    prefix: str = PREFIX
    max_length: int | None = None
    every_turn: bool = False
    """Of a conversation, train all answers and not the last alone."""

    @property
    def pad_id(self) -> int:
        pad = self.processor.tokenizer.pad_token_id
        return int(pad) if pad is not None else 0

    def patches(self, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Images as the vision tower takes them: ``pixel_values_PC`` and ``grid_I3``."""
        return self.processor.pieces(images)

    def lengths(
        self,
        entries: datasets.Dataset,
        sizes: Mapping[str, tuple[int, int]],
        with_answer: bool = True,
    ) -> list[int]:
        """How many tokens each entry is, as ``encode`` makes them, without reading an image.

        Args:
            sizes: width and height of each image, upright.
        """
        processor = self.processor
        tokens = processor.image_tokens(sizes[name] for name in shown_images(entries))
        lengths: list[int] = []
        with tqdm(total=len(entries), desc="counting tokens", unit="entry", delay=3) as bar:
            for at in range(0, len(entries), COUNTED):
                rows = entries.select(range(at, min(at + COUNTED, len(entries))))
                some = [HaystackEntry.of(row) for row in rows]
                pieces = [self.pieces(entry, None, with_answer) for entry in some]
                counts = iter(processor.counts([piece for of in pieces for piece in of]))
                for entry, of in zip(some, pieces, strict=True):
                    # One visual token of each image is counted already.
                    visual = sum(tokens[sizes[name]] - 1 for name in entry.images)
                    lengths.append(sum(islice(counts, len(of))) + visual)
                bar.update(len(rows))
        return lengths

    def _answer(self, entry: HaystackEntry) -> str:
        """As it is trained."""
        answer = entry.answer if entry.turns else entry.answer.capitalize()
        return answer + self.processor.family.end_of_turn

    def encode(
        self, entry: HaystackEntry, pixel_values_PC: Tensor, grid_I3: Tensor, with_answer: bool
    ) -> ModelInputs:
        """One haystack, without batch dimension.

        Labels are -100 but for the answer and its end-of-turn token, with ``every_turn`` also those
        of earlier turns; with ``with_answer`` false the text ends where the answer would begin.

        Args:
            pixel_values_PC: patches of the entry's images; none where the model knows them.
            grid_I3: the images' patches in time, height and width.

        Raises:
            UserError: it is longer than ``max_length``. It is never cut: a cut could go through
                an image, or take the needle away.
        """
        processor, family = self.processor, self.processor.family
        pieces = self.pieces(entry, grid_I3, with_answer)
        ids = [processor.ids(piece) for piece in pieces]
        # Every second piece is an answer; without one at the end, all is given.
        asked = [n % 2 == 0 or not with_answer for n in range(len(ids))]
        labels = [torch.full_like(x, IGNORED) if a else x for x, a in zip(ids, asked, strict=True)]
        length = sum(map(len, ids))
        if self.max_length is not None and length > self.max_length:
            raise UserError(
                f"entry {entry.id} is {length} tokens long ({len(grid_I3)} images), more than "
                f"data.max_length {self.max_length}: raise it, reduce data.max_pixels, or leave "
                "out this haystack size"
            )
        input_ids_L = torch.cat(ids)
        visual_L = (input_ids_L == processor.image_id).long()
        positions_RBL = family.positions(input_ids_L[None], visual_L[None], grid_I3)
        return ModelInputs(
            input_ids_BL=input_ids_L,
            attention_mask_BL=torch.ones_like(input_ids_L),
            mm_token_type_ids_BL=visual_L,
            position_ids_3BL=positions_RBL[:, 0],
            labels_BL=torch.cat(labels),
            pixel_values_PC=pixel_values_PC,
            image_grid_thw_I3=grid_I3,
            image_names=list(entry.images),
            needle_I=torch.tensor(
                [i in entry.needles for i in range(len(entry.images))], dtype=torch.bool
            ),
            entry_ids=[entry.id],
        )

    def pieces(self, entry: HaystackEntry, grid_I3: Tensor | None, with_answer: bool) -> list[str]:
        """The text, with every second piece an answer that is trained.

        Args:
            grid_I3: None leaves one token in place of each image.
        """
        turns = entry.turns or (self.turn(len(entry.images), entry.question),)
        if not with_answer:
            return [self.processor.conversation(turns, grid_I3)]
        if self.every_turn:
            pieces = self.processor.split_at_answers(turns, grid_I3)
        else:
            pieces = [self.processor.conversation(turns, grid_I3)]
        return [*pieces, self._answer(entry)]

    def turn(self, images: int, question: str) -> tuple[str, str]:
        """Role and text of a haystack's only turn."""
        return user_turn(images, self.prefix + question)


@dataclass(eq=False)
class HaystackDataset(Dataset):
    """Entries (rows of ``FEATURES`` or ``CONVERSATION_FEATURES``) with their images, encoded when
    asked for.

    Where the grids of all an entry's images are in ``grids``, the models know these images and
    their files are not read. Data workers call each of ``ahead``. Index ``~i`` is entry ``i`` once
    more, not to be counted.
    """

    entries: datasets.Dataset
    root: Path | ImageRoots
    encoder: PromptEncoder
    with_answer: bool
    grids: Mapping[str, Tensor] = field(default_factory=dict)
    ahead: Sequence[ReadAhead] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        counted = index >= 0
        entry = HaystackEntry.of(self.entries[index if counted else ~index])
        names = entry.images
        if all(name in self.grids for name in names):
            grids = [self.grids[name] for name in names]
            grid_I3 = torch.stack(grids) if names else torch.empty(0, 3, dtype=torch.long)
            pixels_PC = torch.empty(0)
        else:
            pixels_PC, grid_I3 = patches_of(self.root, names, self.encoder.patches)
        inputs = self.encoder.encode(entry, pixels_PC, grid_I3, self.with_answer)
        if get_worker_info() is not None:
            for read in self.ahead:
                read(entry.id, names)
        return Sample(inputs, entry, counted)


@dataclass(frozen=True)
class Collate:
    """Pads samples to a batch: on the right to train, on the left to answer.

    Attributes:
        mean_haystacks: of packed micro-batches, how many haystacks one has on average; None: they
            are not packed.
    """

    pad_id: int
    side: Side
    mean_haystacks: float | None = None

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        inputs = pad_batch([sample.inputs for sample in samples], self.pad_id, self.side)
        entries, counted = [s.entry for s in samples], [s.counted for s in samples]
        if self.mean_haystacks is None:
            return Batch(inputs, entries, counted)
        if len(samples) > 1:
            inputs.lengths = [len(s.inputs.input_ids_BL) for s in samples]
        return Batch(inputs, entries, counted, len(samples) / self.mean_haystacks)
