"""Image keys of earlier micro-batches, as distractors for the haystacks of this one.

Shape suffixes: B batch, N tokens of all images, M images, C tokens that the bank can hold, K KV
heads, D head_dim, 3 the temporal, height and width rows of M-RoPE.
"""

import logging
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from laid.common.errors import UserError
from laid.distributed.process_group import gather, gather_tensors, this_rank, world_size
from laid.losses.image_tokens import BatchImages, ImageTokens, begins, joined

log = logging.getLogger(__name__)

MOST = 10_000_000
"""Of rows, slots and tokens; whoever asks for more made a mistake."""
Distractors = Literal["none", "batch", "bank"]
"""As ``RetrievalArgs.distractors`` says."""
Keys = dict[str, Tensor]
"""``k_NKD`` before RoPE by model and layer pair, as "student.2"."""


def check_slots(
    term: str, distractors: Distractors, bank_tokens: int, reach: int, least: int = 0
) -> None:
    """Settings of the virtual haystack's slots and of what fills them.

    Args:
        least: of ``reach``.

    Raises:
        UserError: one is out of its range, or there is a bank and no slots for it.
    """
    for name, value, low in (("bank_tokens", bank_tokens, 1), ("reach", reach, least)):
        if not low <= value <= MOST:
            raise UserError(f"objective.{term}.{name} {value}: expected {low} to {MOST:,}")
    if reach == 0 and distractors == "bank":
        raise UserError(
            f"objective.{term}.reach 0 with distractors bank: there would be no slots beside those "
            "of the images there are; expected a reach of 1 or more, or distractors batch or none"
        )


@dataclass(frozen=True)
class KeyedImages:
    """Images with their keys."""

    images: ImageTokens
    keys: Keys

    def detached(self) -> "KeyedImages":
        """The same keys, through which no gradient flows."""
        return KeyedImages(self.images, {key: k.detach() for key, k in self.keys.items()})


def joined_keys(*parts: KeyedImages) -> KeyedImages:
    """Several lists of images as one; keys have the dtype of the first."""
    keys = {
        key: torch.cat([part.keys[key].to(k_NKD.dtype) for part in parts])
        for key, k_NKD in parts[0].keys.items()
    }
    return KeyedImages(joined([part.images for part in parts]), keys)


def of_all_ranks(mine: KeyedImages, batch: BatchImages) -> tuple[KeyedImages, Tensor]:
    """The images of a micro-batch on all ranks, on every rank, in the order that one rank would
    have: ``EpochSampler`` gives consecutive haystacks to consecutive ranks.

    Args:
        mine: those of ``batch``, with their keys.

    Returns:
        The images, and ``own_BM``: which of them are a haystack's of this rank.
    """
    ranks = world_size()
    if ranks == 1:
        return mine, batch.own_BM
    images = mine.images
    token_counts, image_counts = zip(*gather((len(images.image_N), images.images)), strict=True)
    every = joined_keys(
        *(
            KeyedImages(
                ImageTokens(image_N, offset_N3.T, name_M, extent_M),
                dict(zip(mine.keys, keys, strict=True)),
            )
            for image_N, offset_N3, name_M, extent_M, *keys in zip(
                gather_tensors(images.image_N, token_counts),
                gather_tensors(images.offset_3N.T, token_counts),
                gather_tensors(images.name_M, image_counts),
                gather_tensors(images.extent_M, image_counts),
                *(gather_tensors(k, token_counts) for k in mine.keys.values()),
                strict=True,
            )
        )
    )
    by_rank = gather_tensors(batch.haystack_M, image_counts)
    row_M = torch.cat([of_rank * ranks + rank for rank, of_rank in enumerate(by_rank)])
    row_B = torch.arange(len(batch.question_B), device=row_M.device) * ranks + this_rank()
    order_M = row_M.argsort(stable=True)
    return _selected(every, order_M), row_M[order_M] == row_B[:, None]


class ImageBank(nn.Module):
    """The last images that were added, as many as fit into ``capacity`` tokens.

    Its buffers are in the checkpoint, so a resumed run has the same distractors.
    """

    used: Tensor
    name_C: Tensor
    image_C: Tensor
    extent_C: Tensor
    offset_3C: Tensor

    def __init__(
        self,
        capacity: int,
        shapes: dict[str, tuple[int, int]],
        position_rows: int = 3,
        term: str = "retrieval",
    ):
        """
        Args:
            capacity: tokens.
            shapes: KV heads and head_dim by model and layer pair.
            position_rows: 3 for M-RoPE, else 1.
            term: whose it is, for messages.

        Raises:
            UserError: there is no memory for so many tokens.
        """
        super().__init__()
        self.capacity, self.term = capacity, term
        self._said = False
        self.names = {key: "keys_" + key.replace(".", "_") for key in shapes}
        try:
            self.register_buffer("used", torch.tensor(0))
            self.register_buffer("name_C", torch.zeros(capacity, dtype=torch.long))
            self.register_buffer("image_C", torch.zeros(capacity, dtype=torch.long))
            self.register_buffer("extent_C", torch.zeros(capacity, dtype=torch.long))
            offset_3C = torch.zeros(position_rows, capacity, dtype=torch.long)
            self.register_buffer("offset_3C", offset_3C)
            for key, shape in shapes.items():
                self.register_buffer(self.names[key], torch.zeros(capacity, *shape))
        except RuntimeError as reason:
            gib = 4 * capacity * sum(heads * dim for heads, dim in shapes.values()) / 2**30
            raise UserError(
                f"objective.{term}.bank_tokens {capacity}: no memory for their keys, "
                f"{gib:,.1f} GiB in float32; expected fewer"
            ) from reason

    def content(self) -> KeyedImages | None:
        """What it holds, oldest first; None where it is empty."""
        used = int(self.used)
        if not used:
            return None
        image_N = self.image_C[:used]
        first_N = begins(image_N)
        images = ImageTokens(
            image_N=image_N,
            offset_3N=self.offset_3C[:, :used],
            name_M=self.name_C[:used][first_N],
            extent_M=self.extent_C[:used][first_N],
        )
        keys = {key: self.get_buffer(name)[:used] for key, name in self.names.items()}
        return KeyedImages(images, keys)

    @torch.no_grad()
    def add(self, new: KeyedImages) -> None:
        """Adds images, in the order of their names, so that the order of a batch does not matter;
        but of an image that several of its haystacks share, the first is kept.

        An image that is there already is replaced. The oldest make room; images that do not fit at
        all are not kept.
        """
        everything, held = _selected(new, _first_by_name(new.images)), self.content()
        if held is not None:
            stays = newest(held, held.images.images, new.images.name_M)
            everything = joined_keys(stays, everything)
        tokens_M = everything.images.tokens_M
        small_M = tokens_M <= self.capacity
        fits_M = small_M & ((tokens_M * small_M).flip(0).cumsum(0).flip(0) <= self.capacity)
        everything = _selected(everything, fits_M.nonzero()[:, 0])
        images, used = everything.images, len(everything.images.image_N)
        if not used and len(tokens_M) and not self._said and this_rank() == 0:
            self._said = True
            log.warning(
                "objective.%s.bank_tokens %d: no image fits, the smallest of this step has %d "
                "tokens with its marks; without room for one, there are no images of earlier steps",
                *(self.term, self.capacity, int(tokens_M.min())),
            )
        self.used.fill_(used)
        self.image_C[:used] = images.image_N
        self.name_C[:used] = images.token_names()
        self.extent_C[:used] = images.extent_M[images.image_N]
        self.offset_3C[:, :used] = images.offset_3N
        for key, name in self.names.items():
            self.get_buffer(name)[:used] = everything.keys[key]


def with_bank(step: KeyedImages, bank: ImageBank | None, slots: int) -> KeyedImages:
    """The images of a step and the newest of the bank, no more than there are slots."""
    held = bank.content() if bank is not None else None
    if held is None:
        return step
    room = max(0, slots - step.images.distinct)
    return joined_keys(step, newest(held, room, step.images.name_M))


def newest(them: KeyedImages, count: int, beside: Tensor) -> KeyedImages:
    """The last ``count`` of the images whose name is not in ``beside``."""
    apart_M = (~torch.isin(them.images.name_M, beside)).nonzero()[:, 0]
    return _selected(them, apart_M[max(0, len(apart_M) - count) :])


def _selected(them: KeyedImages, chosen_M: Tensor) -> KeyedImages:
    """Some of the images, in the order in which they are chosen."""
    images = them.images
    rank_M = torch.full_like(images.name_M, -1)
    rank_M[chosen_M] = torch.arange(len(chosen_M), device=rank_M.device)
    rank_N = rank_M[images.image_N]
    at_N = rank_N.argsort(stable=True)
    at_N = at_N[rank_N[at_N] >= 0]
    selected = ImageTokens(
        rank_N[at_N],
        images.offset_3N[:, at_N],
        images.name_M[chosen_M],
        images.extent_M[chosen_M],
    )
    return KeyedImages(selected, {key: k_NKD[at_N] for key, k_NKD in them.keys.items()})


def _first_by_name(images: ImageTokens) -> Tensor:
    """``chosen_M``: images in the order of their names; of one that occurs twice, the first."""
    order_M = images.name_M.argsort(stable=True)
    return order_M[begins(images.name_M[order_M])]
