"""Tokenizer and image processor of a model, without torchvision.

Shape suffixes as in ``laid/vlm/families/family.py``.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from laid.common.errors import UserError
from laid.vlm.families.family import Family
from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import ModelArgs, load_config
from laid.vlm.model_paths import cannot_load, resolve_model
from laid.vlm.template_trial import try_template

IMAGE_MARK = "<image>"
"""Stands in the text of a turn where an image is shown."""


@dataclass(frozen=True)
class ImageTextProcessor:
    """What makes tokens of text and pieces of images.

    Attributes:
        family: of the model.
        stock: transformers' processor.
    """

    family: Family
    stock: ProcessorMixin

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.stock.tokenizer

    @property
    def image_id(self) -> int:
        """Token id of a visual token."""
        image_id: int = self.family.config.image_token_id
        return image_id

    def identity(self) -> dict[str, Any]:
        """What decides the tokens of a text and the pieces of an image: hashes of vocabulary and
        chat template, and the image processor's settings, pixel limits included."""
        texts = {
            "vocabulary": json.dumps(sorted(self.tokenizer.get_vocab().items())),
            "chat_template": repr(self.stock.chat_template),
        }
        return {
            **{name: hashlib.sha256(of.encode()).hexdigest()[:16] for name, of in texts.items()},
            "image_processor": self.family.preprocessor_config(self.stock),
        }

    def conversation(self, turns: Sequence[tuple[str, str]], grid_I3: Tensor | None) -> str:
        """A conversation in the chat template, up to where the next answer begins.

        It is what the stock processor's own call makes of the text; apart from it, since the
        pixels may be absent.

        Args:
            turns: role and text of each, with ``<image>`` where an image is shown.
            grid_I3: of the images, in that order; None: each has one visual token.
        """
        return self._with_images(_render(self.stock, turns), grid_I3)

    def split_at_answers(
        self, turns: Sequence[tuple[str, str]], grid_I3: Tensor | None
    ) -> list[str]:
        """What ``conversation`` gives, cut before and after each answer of the assistant's, its end
        of turn included: every second piece is one.

        Raises:
            UserError: the chat template writes earlier turns otherwise than the last one.
        """
        whole = _render(self.stock, turns)
        places = [0]
        for at, (role, text) in enumerate(turns):
            if role == "assistant":
                begin = _render(self.stock, turns[:at])
                end = begin + text + self.family.end_of_turn
                if not whole.startswith(end):
                    raise UserError(
                        "the chat template writes earlier answers otherwise than the last one, so "
                        "they can't be trained: set data.train.turns last"
                    )
                places += [len(begin), len(end)]
        pieces = [whole[a:b] for a, b in pairwise([*places, len(whole)])]
        if grid_I3 is None:
            return [self._with_images(piece, None) for piece in pieces]
        marks = [piece.count(self.stock.image_token) for piece in pieces]
        grids = grid_I3.split(marks)
        return [self._with_images(piece, grid) for piece, grid in zip(pieces, grids, strict=True)]

    def _with_images(self, rendered: str, grid_I3: Tensor | None) -> str:
        """Rendered text with each image's tokens in place of its mark; without grids with one
        visual token and all that belongs to it."""
        out, *rest = rendered.split(self.stock.image_token)
        if grid_I3 is None:
            some = torch.tensor(self.family.planned_grid(448, 448, None, None))
            whole, visual = self.family.image_text(self.stock, some), self._visual
            texts = [whole.replace(visual * whole.count(visual), visual)] * len(rest)
        else:
            texts = [self.family.image_text(self.stock, grid_3) for grid_3 in grid_I3]
        for text, piece in zip(texts, rest, strict=True):
            out += text + piece
        return out

    def ids(self, text: str) -> Tensor:
        """Token ids ``ids_L`` of text that has its special tokens already."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.long)

    def image_tokens(self, sizes: Iterable[tuple[int, int]]) -> dict[tuple[int, int], int]:
        """Visual tokens of images, by width and height."""
        # Image processors tell vLLM in this way how many pieces an image has.
        if not (sides := sorted(set(sizes))):
            return {}
        found = self.stock._get_num_multimodal_tokens([(high, wide) for wide, high in sides])
        counts = {
            pieces: self.family.image_text(self.stock, torch.tensor([pieces, 1, 1])).count(
                self._visual
            )
            for pieces in set(found.num_image_patches)
        }
        return {size: counts[n] for size, n in zip(sides, found.num_image_patches, strict=True)}

    @property
    def _visual(self) -> str:
        token: str = self.tokenizer.convert_ids_to_tokens(self.image_id)
        return token

    def counts(self, texts: Sequence[str]) -> list[int]:
        ids = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [len(one) for one in ids]

    def pieces(self, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Images as the vision tower takes them: ``pixel_values`` [P, ...] and ``grid_I3``."""
        return self.family.pieces(self.stock, images)


@dataclass
class ProcessorArgs:
    """Tokenizer and image processor."""

    path: str = "tiny/student"
    """Hub id or folder with tokenizer, chat template, preprocessor_config.json and config.json."""
    revision: str | None = None
    """Branch, tag or commit of a hub id. None: its main branch."""
    min_pixels: int | None = None
    """Smallest image in pixels: smaller ones are enlarged. None: the folder's own limit."""
    max_pixels: int | None = None
    """Largest image in pixels: larger ones are reduced. None: the folder's own limit."""


def user_turn(images: int, text: str) -> tuple[str, str]:
    """The user's turn of a haystack: its images, then the text."""
    return "user", IMAGE_MARK * images + text


def _render(stock: ProcessorMixin, turns: Sequence[tuple[str, str]]) -> str:
    def content(text: str) -> Iterator[dict[str, str]]:
        for number, piece in enumerate(text.split(IMAGE_MARK)):
            if number:
                yield {"type": "image"}
            if piece:
                yield {"type": "text", "text": piece}

    messages = [{"role": role, "content": list(content(text))} for role, text in turns]
    rendered: str = stock.apply_chat_template(messages, add_generation_prompt=True)
    return rendered


def load_processor(args: ProcessorArgs) -> ImageTextProcessor:
    """Loads tokenizer, chat template and image processor.

    Raises:
        UserError: nothing loads from ``path``, its tokenizer has no chat template that can be
            used or not the family's special tokens, or the pixel limits contradict each other.
    """
    family = family_of(load_config(ModelArgs(args.path, args.revision)))
    try:
        stock = family.load_processor(resolve_model(args.path), args.revision)
    except Exception as reason:  # the tokenizer's library raises no other class
        raise cannot_load("processor", args.path, reason) from reason
    if not stock.chat_template:
        raise UserError(
            f"the tokenizer of {args.path!r} has no chat template: expected a chat_template.jinja "
            f"beside it, as every instruction-tuned {family.title} folder has"
        )
    vocabulary = stock.tokenizer.get_vocab()
    special = (stock.image_token, family.end_of_turn)
    if missing := [token for token in special if token not in vocabulary]:
        raise UserError(
            f"the tokenizer of {args.path!r} has no {', '.join(missing)}: expected the tokenizer "
            f"of {family.title}"
        )
    short = [user_turn(2, "word")]
    try_template(lambda: _render(stock, short), args.path)
    if _render(stock, short).count(stock.image_token) != 2:
        raise UserError(
            f"the chat template of {args.path!r} cannot be used: expected one that gives every "
            f"image its {stock.image_token}"
        )
    family.limit_pixels(stock, args.min_pixels, args.max_pixels)
    return ImageTextProcessor(family, stock)


def load_tokenizer(args: ModelArgs) -> PreTrainedTokenizerBase:
    """A model's tokenizer.

    Raises:
        UserError: as ``load_processor``.
    """
    return load_processor(ProcessorArgs(args.path, args.revision)).tokenizer
