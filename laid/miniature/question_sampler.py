"""Haystacks for pretraining, with many questions each, drawn for a whole batch at once.

Shape suffixes: B haystacks, N images, K anchors, Q questions, I images of the pool, C categories.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from laid.common.errors import UserError

_TRIES = 1000


@dataclass(frozen=True)
class Haystacks:
    """A batch of haystacks of one size.

    Attributes:
        images_BN: rows of the pool, in the order shown.
        yes_BQ: whether the needle shows the target.
        valid_BQ: false where no balanced question exists, which the loss leaves out.
        others_BQC: the needle's other categories, without the haystack's anchors.
    """

    images_BN: Tensor
    anchors_BQ: Tensor
    targets_BQ: Tensor
    yes_BQ: Tensor
    valid_BQ: Tensor
    others_BQC: Tensor


class Sampler:
    """Draws haystacks in which the target in other images is independent of the answer.

    Each haystack has up to four anchors, each in exactly one image, its needle. To ask about a
    needle, another image of the haystack is drawn, and a coin flip decides the answer: for yes the
    target is an object of the needle that the other image does not show, for no the reverse. The
    other images are independent of the coin, so the number of images with the target has the same
    distribution for both answers, as ``laid.data.haystack_sampler`` ensures pair by pair. A single
    image has no other; there the target is any object that it shows, or does not.

    Args:
        present_IC: bool, which categories each image of the pool shows.
    """

    def __init__(self, present_IC: Tensor) -> None:
        self.present_IC = present_IC
        self._count_C = present_IC.sum(dim=0)
        # For each category the rows of its images come first.
        self._with_CI = present_IC.T.int().argsort(dim=1, descending=True, stable=True)
        self._with_CI = self._with_CI[:, : int(self._count_C.max())].contiguous()

    def draw(self, batch: int, size: int, questions: int, generator: torch.Generator) -> Haystacks:
        """A batch of haystacks of ``size`` images with ``questions`` questions each.

        Raises:
            UserError: the pool has too few images with exactly one anchor or none.
        """
        count, categories = self.present_IC.shape
        anchors = min(4, size if size < 3 else size // 2, questions)
        uniform = partial(torch.rand, generator=generator)
        integers = partial(torch.randint, generator=generator)

        def showing(category_X: Tensor) -> Tensor:
            """A row of the pool for each category, which its image shows."""
            number_X = (uniform(category_X.shape) * self._count_C[category_X]).long()
            return self._with_CI[category_X, number_X]

        anchors_BK = uniform(batch, categories).argsort(dim=1)[:, :anchors]
        taken_BC = torch.zeros(batch, categories, dtype=torch.bool).scatter_(1, anchors_BK, True)

        def redraw(rows_BX: Tensor, wanted: int, draw: Callable[[Tensor], Tensor]) -> Tensor:
            """Draws images again until each shows ``wanted`` of its haystack's anchors."""
            for _ in range(_TRIES):
                bad_BX = (self.present_IC[rows_BX] & taken_BC[:, None]).sum(dim=2) != wanted
                if not bad_BX.any():
                    return rows_BX
                rows_BX[bad_BX] = draw(bad_BX)
            raise UserError(
                f"the pool has too few images with {wanted} of {anchors} anchors: draw more images"
            )

        images_BN = integers(count, (batch, size))
        images_BN = redraw(images_BN, 0, lambda bad_BN: integers(count, (int(bad_BN.sum()),)))
        needles_BK = redraw(showing(anchors_BK), 1, lambda bad_BK: showing(anchors_BK[bad_BK]))
        slots_BN = uniform(batch, size).argsort(dim=1)
        images_BN.scatter_(1, slots_BN[:, :anchors], needles_BK)

        which_BQ = integers(anchors, (batch, questions))
        slot_BQ = slots_BN.gather(1, which_BQ)
        shown_BQC = self.present_IC[images_BN.gather(1, slot_BQ)]
        free_BQC = ~taken_BC[:, None]
        if size == 1:
            other_BQC = ~shown_BQC
        else:
            step_BQ = integers(1, size, (batch, questions))
            other_BQC = self.present_IC[images_BN.gather(1, (slot_BQ + step_BQ) % size)]
        yes_BQC, no_BQC = shown_BQC & ~other_BQC & free_BQC, other_BQC & ~shown_BQC & free_BQC
        coin_BQ = uniform(batch, questions) < 0.5
        choice_BQC = torch.where(coin_BQ[..., None], yes_BQC, no_BQC)
        # A uniform choice: the largest of random numbers.
        targets_BQ = (uniform(choice_BQC.shape) * choice_BQC).argmax(dim=2)
        return Haystacks(
            images_BN=images_BN,
            anchors_BQ=anchors_BK.gather(1, which_BQ),
            targets_BQ=targets_BQ,
            yes_BQ=coin_BQ,
            valid_BQ=yes_BQC.any(dim=2) & no_BQC.any(dim=2),
            others_BQC=shown_BQC & free_BQC,
        )
