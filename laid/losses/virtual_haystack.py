"""Virtual haystacks: images at random slots of a haystack as long as wanted, before the question.

No model runs such a haystack. Keys before RoPE are rotated to the positions that their images would
have there, and the question's queries to theirs.

Shape suffixes: B batch, R rows of a haystack, L tokens of a haystack, N tokens of all images, M
images, U distinct images, S slots, H query heads, K KV heads, D head_dim, 3 the temporal, height
and width rows of M-RoPE.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from laid.losses.attention_rows import HIDDEN, Rows
from laid.losses.image_tokens import BatchImages, ImageTokens, begins
from laid.losses.retrieval_rows import image_logits, token_logits
from laid.losses.token_parts import by_part, part_length
from laid.signals.model_signals import Rotate
from laid.signals.token_choice import at_columns


@dataclass(frozen=True)
class VirtualHaystack:
    """Rows of some questions, and images before them.

    Attributes:
        columns_BR: each row's place in its haystack.
        row_positions_3BR: where the rows stand.
        image_N: the image of each token.
        token_positions_3N: where the images' tokens stand.
        distance_M: positions from an image's first token to the question.
        length: the longest distance that an image can have; a scalar, or of each image's haystack.
        own_BM: whether an image is the row's haystack's own.
        candidate_BM: whether it is that or a distractor.
    """

    columns_BR: Tensor
    row_positions_3BR: Tensor
    image_N: Tensor
    token_positions_3N: Tensor
    distance_M: Tensor
    length: Tensor
    own_BM: Tensor
    candidate_BM: Tensor

    def logits(self, q_BLHD: Tensor, k_NKD: Tensor, rotate: Rotate) -> Tensor:
        """Logits ``[B, R, H, M]`` of the rows to whole images; ``HIDDEN`` for one that is no
        candidate. Queries and keys are before RoPE."""
        q_BRHD = rotate(at_columns(q_BLHD, self.columns_BR), self.row_positions_3BR)

        def to_tokens(k_1NKD: Tensor, positions_3N: Tensor) -> Tensor:
            return token_logits(q_BRHD, rotate(k_1NKD, positions_3N[:, None])[0])

        length = part_length(k_NKD[:1].numel())
        logits = by_part(to_tokens, length, k_NKD[None], self.token_positions_3N)
        logits_BRHM = image_logits(torch.cat(logits, -1), self.image_N, len(self.distance_M))
        return logits_BRHM.masked_fill(~self.candidate_BM[:, None, None], HIDDEN)


def as_shown(rows: Rows, images: BatchImages) -> VirtualHaystack:
    """Each haystack as it is: its own images, where they are."""
    own_BM = images.own_BM
    real_3N = rows.positions_3BL[:, images.haystack_N, images.column_N]
    question_M = images.question_B[images.haystack_M]
    distance_M = question_M - real_3N[0, begins(images.image_N)]
    longest_B = torch.zeros_like(images.question_B)
    longest_B.scatter_reduce_(0, images.haystack_M, distance_M, "amax")
    return VirtualHaystack(
        columns_BR=rows.columns_BR,
        row_positions_3BR=rows.row_positions_3BR,
        image_N=images.image_N,
        token_positions_3N=real_3N,
        distance_M=distance_M,
        length=longest_B[images.haystack_M],
        own_BM=own_BM,
        candidate_BM=own_BM,
    )


def at_random_slots(
    rows: Rows,
    question_B: Tensor,
    images: ImageTokens,
    own_BM: Tensor,
    slots: int,
    generator: torch.Generator,
    distractors: bool,
) -> VirtualHaystack:
    """Each of ``images`` at a random slot of its own.

    An image's slot depends on its name and the generator, not on its place in a list, so that the
    order of a batch and the rank an image came from do not matter. An image that occurs twice has
    one slot.

    Args:
        question_B: where each haystack's question begins.
        own_BM: which images are a haystack's own.
        slots: at least one an image is taken. Empty ones are as long as an image is on average.
        generator: on the CPU.
        distractors: whether the others are candidates, but for those that are its own as well.
    """
    names_U, which_M = images.name_M.unique(return_inverse=True)  # sorted
    extent_U = torch.zeros_like(names_U).scatter_reduce_(0, which_M, images.extent_M, "amax")
    slots = max(slots, len(names_U))
    drawn_U = torch.randperm(slots, generator=generator)[: len(names_U)]
    slot_U = drawn_U.to(names_U.device, non_blocking=True)
    extent_S = extent_U.float().mean().round().long().repeat(slots)
    extent_S[slot_U] = extent_U
    distance_S = extent_S.cumsum(0)  # slot 0 is the nearest to the question
    distance_M, length = distance_S[slot_U][which_M], distance_S[-1]

    candidate_BM = own_BM
    if distractors:
        names = [images.name_M[own_M] for own_M in own_BM]
        apart = [~torch.isin(images.name_M, of_haystack) for of_haystack in names]
        candidate_BM = own_BM | torch.stack(apart)
    return VirtualHaystack(
        columns_BR=rows.columns_BR,
        row_positions_3BR=length + rows.row_positions_3BR - question_B[:, None],
        image_N=images.image_N,
        token_positions_3N=(length - distance_M)[images.image_N] + images.offset_3N,
        distance_M=distance_M,
        length=length,
        own_BM=own_BM,
        candidate_BM=candidate_BM,
    )
