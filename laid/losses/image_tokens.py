"""Where the images of a batch are, token by token.

An image's tokens are its visual tokens and the marks before and after them. They are kept in one
flat list, without padding, so that images of any size may stand side by side.

Shape suffixes: B batch, L tokens of a haystack, N tokens of all images, M images, 3 the temporal,
height and width rows of M-RoPE.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from laid.signals.model_inputs import ModelInputs


@dataclass(frozen=True)
class ImageTokens:
    """The tokens of some images, in order.

    Attributes:
        image_N: which image a token belongs to, from 0, ascending.
        offset_3N: its position less that of its image's first token.
        name_M: a number for each image's name; an image that recurs has the same.
        extent_M: positions from an image's first token to the next image's, or to the question.
    """

    image_N: Tensor
    offset_3N: Tensor
    name_M: Tensor
    extent_M: Tensor

    @property
    def images(self) -> int:
        return len(self.name_M)

    @property
    def distinct(self) -> int:
        return len(self.name_M.unique())

    @property
    def tokens_M(self) -> Tensor:
        """How many tokens an image has."""
        return torch.bincount(self.image_N, minlength=self.images)

    def token_names(self) -> Tensor:
        """``name_N``, the name of each token's image."""
        return self.name_M[self.image_N]


@dataclass(frozen=True)
class BatchImages(ImageTokens):
    """The images of a batch.

    Attributes:
        haystack_N: the haystack (row of the batch) of each token.
        column_N: its place there.
        haystack_M: the haystack of each image.
        question_B: position of the first token after the haystack's last image; 0 without images.
    """

    haystack_N: Tensor
    column_N: Tensor
    haystack_M: Tensor
    question_B: Tensor

    @property
    def own_BM(self) -> Tensor:
        """Which images are a haystack's own."""
        return (
            self.haystack_M
            == torch.arange(len(self.question_B), device=self.haystack_M.device)[:, None]
        )


def images_of(inputs: ModelInputs) -> BatchImages:
    """The images of a batch that is padded on the right."""
    visual_BL = inputs.mm_token_type_ids_BL.bool()
    length, device = visual_BL.shape[1], visual_BL.device
    haystack_M, first_M = inputs.first_visual_BL.nonzero(as_tuple=True)
    after_BL = torch.nn.functional.pad(visual_BL, (0, 1))[:, 1:]
    last_M = (visual_BL & ~after_BL).nonzero(as_tuple=True)[1]
    assert len(first_M) == inputs.images
    first_M, last_M = first_M - 1, last_M + 1  # with the marks
    tokens_M = last_M - first_M + 1
    image_N = torch.arange(len(tokens_M), device=device).repeat_interleave(tokens_M)
    start_M = tokens_M.cumsum(0) - tokens_M
    within_N = torch.arange(len(image_N), device=device) - start_M[image_N]
    haystack_N, column_N = haystack_M[image_N], first_M[image_N] + within_N

    position_3BL = inputs.position_ids_3BL
    position_3N, at_M = position_3BL[:, haystack_N, column_N], position_3BL[0, haystack_M, first_M]
    # The next image of the same haystack, or the question.
    is_last_M = begins(haystack_M.flip(0)).flip(0)
    after_M = position_3BL[0, haystack_M, (last_M + 1).clamp(max=length - 1)]
    # What follows other images goes to an entry of no haystack: a mask would wait for the device.
    row_M = torch.where(is_last_M, haystack_M, len(visual_BL))
    question_B = position_3BL.new_zeros(len(visual_BL) + 1).scatter(0, row_M, after_M)[:-1]
    next_M = torch.where(is_last_M, question_B[haystack_M], at_M.roll(-1))
    return BatchImages(
        image_N=image_N,
        offset_3N=position_3N - at_M[image_N],
        name_M=torch.tensor(
            [name_number(name) for name in inputs.image_names], dtype=torch.long
        ).to(device, non_blocking=True),
        extent_M=next_M - at_M,
        haystack_N=haystack_N,
        column_N=column_N,
        haystack_M=haystack_M,
        question_B=question_B,
    )


def begins(x_N: Tensor) -> Tensor:
    """Whether a value is the first of equal ones that stand together."""
    first_N = torch.ones_like(x_N, dtype=torch.bool)
    first_N[1:] = x_N[1:] != x_N[:-1]
    return first_N


def name_number(name: str) -> int:
    """63 bits that stand for a name, the same on every machine."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def joined(parts: Sequence[ImageTokens]) -> ImageTokens:
    """Several lists of images as one."""
    counts = torch.tensor([0, *(part.images for part in parts[:-1])]).cumsum(0).tolist()
    return ImageTokens(
        image_N=torch.cat([p.image_N + first for p, first in zip(parts, counts, strict=True)]),
        offset_3N=torch.cat([p.offset_3N for p in parts], dim=1),
        name_M=torch.cat([p.name_M for p in parts]),
        extent_M=torch.cat([p.extent_M for p in parts]),
    )


def plain(images: BatchImages) -> ImageTokens:
    """The same images without their haystacks."""
    return ImageTokens(**{f.name: getattr(images, f.name) for f in fields(ImageTokens)})
