"""How a haystack is written as tokens: its images once, then its questions side by side.

The tokens are those that ``laid.data.prompt`` renders. Every question has the positions that a
single one would have, and the attention mask lets it see the images and itself alone. So each of
them is exactly what a test asks, and many cost little more than one.

Shape suffixes: B haystacks, N images, L tokens, Q questions, I visual tokens of a haystack, C
categories, W words of a name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from laid.common.errors import UserError
from laid.data.entries import ask
from laid.miniature.image_pool import PATCH
from laid.minicoco.drawing import SIDE
from laid.vlm.processor import ImageTextProcessor, user_turn


@dataclass(frozen=True)
class Layout:
    """What all haystacks of one size and number of questions share.

    Attributes:
        ids_L: token ids, with placeholders for the words in which questions differ.
        positions_3BL: M-RoPE positions; B is 1 where all of a batch have the same.
        mask_LL: bool, which tokens (columns) each token (row) attends to; None for one question,
            where the mask is causal.
        visual_I: indices of the visual tokens.
        anchors_Q, targets_Q: indices of the last words of the two objects' names.
        answers_Q: indices of "Yes" or "No", each predicted by the token before it; the end of the
            turn follows.
    """

    ids_L: Tensor
    positions_3BL: Tensor
    mask_LL: Tensor | None
    visual_I: Tensor
    anchors_Q: Tensor
    targets_Q: Tensor
    answers_Q: Tensor

    def __len__(self) -> int:
        return len(self.ids_L)

    def among(self, slots_BN: Tensor, size_B: Tensor) -> "Layout":
        """With the positions that the images have in longer haystacks of ``size_B`` equal images,
        at the ascending ``slots_BN``; the questions follow the last slot."""
        batch, images = slots_BN.shape
        first = int(self.visual_I[0]) - 1  # each image stands between two markers
        end = int(self.visual_I[-1]) + 2
        row_L = self.positions_3BL[0, 0]
        moved_BN = slots_BN - torch.arange(images)
        moved_BL = torch.cat(
            [
                torch.zeros(batch, first, dtype=torch.long),
                moved_BN.repeat_interleave((end - first) // images, dim=1),
                (size_B - images)[:, None].expand(-1, len(self) - end),
            ],
            dim=1,
        )
        advance = (row_L[end] - row_L[first]) // images
        return replace(self, positions_3BL=self.positions_3BL + advance * moved_BL)


class Writer:
    """Writes haystacks and questions about ``categories`` as token ids.

    Args:
        processor: with the tiny tokenizer, in which every word is one token.
        categories: names of the objects, all of as many words.

    Attributes:
        words_C: the last words of the names; the loss at an anchor's last word is of these.

    Raises:
        UserError: a name has more or fewer tokens than the first.
    """

    def __init__(self, processor: ImageTextProcessor, categories: Sequence[str]) -> None:
        self._processor = processor
        self._samples = categories[0], categories[1]
        width = len(processor.ids(f" {categories[0]}"))
        self._names_CW = torch.stack([self._words(f" {name}", width) for name in categories])
        self.words_C = self._names_CW[:, -1]
        articles = (ask(name, name, "single").split(f" {name},")[0] for name in categories)
        self.articles_C = torch.tensor([self._word(f" {text.split()[-1]}") for text in articles])
        self.yes, self.no = self._word("Yes"), self._word("No")
        self.end = self._word(processor.family.end_of_turn)
        self.layout = lru_cache(maxsize=None)(self._layout)

    def _words(self, text: str, number: int) -> Tensor:
        ids = self._processor.ids(text)
        if len(ids) != number:
            raise UserError(
                f"{text!r} is {len(ids)} tokens, expected {number}: pretraining needs words of one "
                "token, and names of as many as the first"
            )
        return ids

    def _word(self, text: str) -> int:
        return int(self._words(text, 1)[0])

    def _layout(self, size: int, questions: int) -> Layout:
        processor = self._processor
        grid_I3 = torch.tensor([[1, SIDE // PATCH, SIDE // PATCH]] * size)
        turns = [user_turn(size, ask(*self._samples, "single"))]
        ids_L = processor.ids(processor.conversation(turns, grid_I3) + "Yes")
        visual_L = ids_L == processor.image_id
        positions_3BL = processor.family.positions(ids_L[None], visual_L[None].int(), grid_I3)
        start = int(visual_L.nonzero().max()) + 2  # after the last image and its end
        width = len(ids_L) - start
        offsets_Q = torch.arange(questions) * width
        at_L = torch.arange(len(ids_L))
        tokens_L = torch.cat([at_L[:start], at_L[start:].repeat(questions)])
        # -1 for the images, then the number of each question.
        block_L = (torch.arange(len(tokens_L)) - start).div(width, rounding_mode="floor").clamp(-1)
        mask_LL = ((block_L == -1) | (block_L[:, None] == block_L)).tril()

        def indices(words_W: Tensor) -> Tensor:
            """Where the words end in each question."""
            found_L = (ids_L[start:].unfold(0, len(words_W), 1) == words_W).all(dim=1)
            return found_L.nonzero()[-1, 0] + len(words_W) - 1 + start + offsets_Q

        return Layout(
            ids_L=ids_L[tokens_L],
            positions_3BL=positions_3BL[..., tokens_L],
            mask_LL=mask_LL if questions > 1 else None,
            visual_I=visual_L.nonzero()[:, 0],
            anchors_Q=indices(self._names_CW[0]),
            targets_Q=indices(self._names_CW[1]),
            answers_Q=indices(torch.tensor([self.yes])),
        )

    def write(
        self, layout: Layout, anchors_BQ: Tensor, targets_BQ: Tensor, yes_BQ: Tensor
    ) -> Tensor:
        """``ids_BL`` of a batch, answers included: categories by index, ``yes_BQ`` bool."""
        ids_BL = layout.ids_L.repeat(len(anchors_BQ), 1)
        named = (layout.anchors_Q, anchors_BQ), (layout.targets_Q, targets_BQ)
        width = self._names_CW.shape[1]
        for indices_Q, categories_BQ in named:
            places_QW = indices_Q[:, None] + torch.arange(1 - width, 1)
            ids_BL[:, places_QW] = self._names_CW[categories_BQ]
            ids_BL[:, indices_Q - width] = self.articles_C[categories_BQ]
        ids_BL[:, layout.answers_Q] = torch.where(yes_BQ, self.yes, self.no)
        return ids_BL
