"""What a forward pass takes, as one dataclass, and the padding that makes a batch of it.

Shape suffixes: B batch, L tokens, 3 the temporal, height and width rows of M-RoPE (a family with
one-dimensional positions has one row), P the pieces that images are cut into (patches of C numbers
for Qwen2.5-VL: 3 colours x 2 frames x 14 x 14), I images of the whole batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

ReadAhead = Callable[[str, Sequence[str]], None]
"""Takes an entry's id and the names of its images. A data worker calls it, so that the process that
trains need not wait for a disk; nothing is sent between them."""
IGNORED = -100
"""Label of a token that is not part of the answer."""


@dataclass(frozen=True)
class Answers:
    """The answer's tokens of a batch, in reading order.

    Attributes:
        rows_N, columns_N: of the token that predicts each.
        labels_N: their ids.
        keep_U: the columns of all rows, each once, ascending; U may be less than N.
        slots_N: where in ``keep_U`` each column is.
    """

    rows_N: Tensor
    columns_N: Tensor
    labels_N: Tensor
    keep_U: Tensor
    slots_N: Tensor

    @classmethod
    def of(cls, labels_BL: Tensor) -> "Answers":
        """Those of ``ModelInputs.labels_BL``: the logits at column c predict the label at c + 1."""
        rows_N, columns_N = (labels_BL[:, 1:] != IGNORED).nonzero(as_tuple=True)
        keep_U, slots_N = columns_N.unique(return_inverse=True)
        return cls(rows_N, columns_N, labels_BL[rows_N, columns_N + 1], keep_U, slots_N)


@dataclass
class ModelInputs:
    """One batch, or before padding one haystack without the batch dimension (B absent).

    Attributes:
        input_ids_BL: token ids.
        attention_mask_BL: 1 for a token, 0 for padding.
        mm_token_type_ids_BL: 1 for a visual token, 0 for text.
        position_ids_3BL: positions by the model's family; always given to the model, which might
            otherwise fall back to one-dimensional positions silently.
        labels_BL: the answer's token ids, ``-100`` elsewhere.
        pixel_values_PC: normalised patches of all images, in the order in which they are shown;
            none (P = 0) where the model has learned their features beforehand.
        image_grid_thw_I3: pieces of each image in time, height and width.
        image_names: what each image is called; an image that recurs has the same name.
        needle_I: whether the question is about an image; False for all where the entry does not
            say.
        entry_ids: one a haystack, by which a teacher's stored signals are found; none where the
            haystacks are of no entries.
        lengths: tokens of each haystack where a model is to run them in one row, without padding;
            empty: side by side.
    """

    input_ids_BL: Tensor
    attention_mask_BL: Tensor
    mm_token_type_ids_BL: Tensor
    position_ids_3BL: Tensor
    labels_BL: Tensor
    pixel_values_PC: Tensor
    image_grid_thw_I3: Tensor
    image_names: list[str]
    needle_I: Tensor
    entry_ids: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """How many tokens there are, padding left out."""
        return int(self.attention_mask_BL.sum())

    @property
    def answers(self) -> Answers:
        """Where the answers are; found once, since that reads from the device."""
        found: tuple[Tensor, Answers] | None = self.__dict__.get("_answers")
        if found is None or found[0] is not self.labels_BL:
            self.answers = Answers.of(self.labels_BL)
            found = self.__dict__["_answers"]
        return found[1]

    @answers.setter
    def answers(self, found: Answers) -> None:
        self.__dict__["_answers"] = self.labels_BL, found

    @property
    def images(self) -> int:
        """How many images there are in the whole batch."""
        return len(self.image_names)

    @property
    def first_visual_BL(self) -> Tensor:
        """Whether a token is the first visual one of its image."""
        visual_BL = self.mm_token_type_ids_BL.bool()
        before_BL = torch.nn.functional.pad(visual_BL, (1, 0))[:, :-1]
        return visual_BL & ~before_BL

    @property
    def last_visual_B1(self) -> Tensor:
        """The column of each haystack's last visual token; -1 without images."""
        visual_BL = self.mm_token_type_ids_BL.bool()
        column_L = torch.arange(visual_BL.shape[1], device=visual_BL.device)
        return torch.where(visual_BL, column_L, -1).amax(1, keepdim=True)


def pad_batch(
    rows: Sequence[ModelInputs], pad_id: int, side: Literal["left", "right"]
) -> ModelInputs:
    """Pads haystacks of different length to one batch.

    Args:
        rows: haystacks without batch dimension: ``input_ids`` [L], ``position_ids`` [3, L].
        pad_id: token id to pad with; it is masked, so any valid id does.
        side: ``right`` for a training step, ``left`` for generation, where the last column of every
            row must be its last token.
    """
    longest = max(len(row.input_ids_BL) for row in rows)

    def padded(name: str, value: int) -> Tensor:
        out = []
        for row in rows:
            tensor = getattr(row, name)
            gap = longest - tensor.shape[-1]
            edges = (gap, 0) if side == "left" else (0, gap)
            out.append(torch.nn.functional.pad(tensor, edges, value=value))
        return torch.stack(out, dim=-2)

    return ModelInputs(
        input_ids_BL=padded("input_ids_BL", pad_id),
        attention_mask_BL=padded("attention_mask_BL", 0),
        mm_token_type_ids_BL=padded("mm_token_type_ids_BL", 0),
        position_ids_3BL=padded("position_ids_3BL", 0),
        labels_BL=padded("labels_BL", IGNORED),
        pixel_values_PC=torch.cat([row.pixel_values_PC for row in rows]),
        image_grid_thw_I3=torch.cat([row.image_grid_thw_I3 for row in rows]),
        image_names=[name for row in rows for name in row.image_names],
        needle_I=torch.cat([row.needle_I for row in rows]),
        entry_ids=[entry for row in rows for entry in row.entry_ids],
    )


def haystack_alone(inputs: ModelInputs, row: int) -> ModelInputs:
    """One haystack of a batch as a batch of its own, without padding."""
    images_B = inputs.first_visual_BL.sum(1).tolist()
    assert sum(images_B) == inputs.images
    images = slice(sum(images_B[:row]), sum(images_B[: row + 1]))
    kept_L = inputs.attention_mask_BL[row].bool()
    pixel_values_PC = inputs.pixel_values_PC
    if len(pixel_values_PC):
        pieces_I = inputs.image_grid_thw_I3.prod(-1).tolist()
        of_row = pixel_values_PC.split(pieces_I)[images]
        pixel_values_PC = torch.cat([pixel_values_PC[:0], *of_row])
    return ModelInputs(
        input_ids_BL=inputs.input_ids_BL[row, kept_L][None],
        attention_mask_BL=inputs.attention_mask_BL[row, kept_L][None],
        mm_token_type_ids_BL=inputs.mm_token_type_ids_BL[row, kept_L][None],
        position_ids_3BL=inputs.position_ids_3BL[:, row, kept_L][:, None],
        labels_BL=inputs.labels_BL[row, kept_L][None],
        pixel_values_PC=pixel_values_PC,
        image_grid_thw_I3=inputs.image_grid_thw_I3[images],
        image_names=inputs.image_names[images],
        needle_I=inputs.needle_I[images],
        entry_ids=inputs.entry_ids[row : row + 1],
    )
