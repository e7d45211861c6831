"""From a haystack entry and its images to model inputs: images first, question last."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch.utils.data import Dataset

from laid.data.images import load_image
from laid.data.paths import resolve_under
from laid.vlm.inputs import IGNORED, ModelInputs, pad_batch
from laid.vlm.positions import get_position_ids
from laid.vlm.processor import ImageTextProcessor

PREFIX = "You are given a set of images. Please answer the following question in Yes or No: "
"""What Visual Haystacks puts before each question."""

END_OF_TURN = "<|im_end|>"

Entry = Mapping[str, Any]
"""A haystack entry; its columns are those of ``laid/data/haystack.py``."""


@dataclass
class Batch:
    """Padded model inputs, and the entries that they were made of."""

    inputs: ModelInputs
    entries: list[Entry]


class PromptEncoder:
    """Renders entries with the processor's chat template."""

    def __init__(
        self, processor: ImageTextProcessor, prefix: str = PREFIX, max_length: int | None = None
    ):
        self.processor = processor
        self.prefix = prefix
        self.max_length = max_length

    @property
    def pad_id(self) -> int:
        """The token id that padding is filled with."""
        pad = self.processor.tokenizer.pad_token_id
        return int(pad) if pad is not None else 0

    def encode(self, entry: Entry, images: Sequence[Image.Image], with_answer: bool) -> ModelInputs:
        """One haystack, without batch dimension.

        Labels are -100 but for the answer and its end-of-turn token; with ``with_answer`` false
        the text ends where the answer would begin.

        Raises:
            ValueError: it is longer than ``max_length``. It is never cut: a cut could go through
                an image, or take the needle away.
        """
        content: list[dict[str, str]] = [{"type": "image"} for _ in images]
        content.append({"type": "text", "text": self.prefix + entry["question"]})
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        made = self.processor(text=[text], images=list(images), return_tensors="pt")
        ids, types = made["input_ids"], made["mm_token_type_ids"]
        answer_length = 0
        if with_answer:
            answer = self.processor.tokenizer(
                entry["answer"].capitalize() + END_OF_TURN,
                add_special_tokens=False,
                return_tensors="pt",
            )["input_ids"]
            answer_length = answer.shape[1]
            ids = torch.cat([ids, answer], dim=1)
            types = torch.cat([types, torch.zeros_like(answer)], dim=1)
        length = ids.shape[1]
        if self.max_length is not None and length > self.max_length:
            raise ValueError(
                f"entry {entry['id']} is {length} tokens long ({len(images)} images), more than "
                f"data.max_length {self.max_length}: raise it, reduce data.max_pixels, or leave "
                "out this haystack size"
            )
        labels = torch.full_like(ids, IGNORED)
        if answer_length:
            labels[:, -answer_length:] = ids[:, -answer_length:]
        grid = made["image_grid_thw"]
        positions = get_position_ids(ids, types, grid, self.processor.image_processor.merge_size)
        return ModelInputs(
            input_ids_BL=ids[0],
            attention_mask_BL=torch.ones_like(ids[0]),
            mm_token_type_ids_BL=types[0],
            position_ids_3BL=positions[:, 0],
            labels_BL=labels[0],
            pixel_values_PC=made["pixel_values"],
            image_grid_thw_I3=grid,
        )


class HaystackDataset(Dataset):
    """Entries with their images, encoded when asked for."""

    def __init__(
        self,
        entries: Sequence[Entry],
        root: Path,
        encoder: PromptEncoder,
        with_answer: bool,
    ):
        self.entries = entries
        self.root = root
        self.encoder = encoder
        self.with_answer = with_answer

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[ModelInputs, Entry]:
        entry = self.entries[index]
        images = [load_image(resolve_under(self.root, name)) for name in entry["images"]]
        return self.encoder.encode(entry, images, self.with_answer), entry


@dataclass(frozen=True)
class Collate:
    """Pads rows to a batch: on the right to train, on the left to answer."""

    pad_id: int
    side: Literal["left", "right"]

    def __call__(self, rows: Sequence[tuple[ModelInputs, Entry]]) -> Batch:
        inputs = pad_batch([row for row, _ in rows], self.pad_id, self.side)
        return Batch(inputs=inputs, entries=[entry for _, entry in rows])
