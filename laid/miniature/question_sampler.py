"""Haystacks for pretraining: many questions on each, drawn for a whole batch at once.

Shape suffixes: B haystacks, N images, K anchors, Q questions, I images of the pool, C categories.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from laid.common.errors import UserError

_TRIES = 1000


@dataclass(frozen=True)
class Haystacks:
    """A batch of haystacks of one size.

    Attributes:
        images_BN: rows of the pool, in the order shown.
        anchors_BQ, targets_BQ: categories of each question.
        yes_BQ: whether the needle holds the target.
        valid_BQ: false where no fair question could be asked; leave it out of the loss.
        others_BQC: what else the needle holds, besides the haystack's anchors.
    """

    images_BN: Tensor
    anchors_BQ: Tensor
    targets_BQ: Tensor
    yes_BQ: Tensor
    valid_BQ: Tensor
    others_BQC: Tensor


class Sampler:
    """Draws haystacks in which the target's being elsewhere says nothing about the answer.

    Each haystack has a few anchors, each in exactly one image, its needle. To ask about a needle,
    another image of the haystack is drawn, and a coin decides the answer: for yes the target is
    something that the needle holds and the other image does not, for no the reverse. The rest of
    the haystack knows nothing of the coin, so the number of images with the target is distributed
    alike for both answers, as ``laid.data.haystack_sampler`` makes it pair by pair. A single image
    has no other; there the target is anything that it holds, or does not.

    Args:
        present_IC: bool, which categories each image of the pool holds.
    """

    def __init__(self, present_IC: Tensor) -> None:
        self.present_IC = present_IC
        self._count_C = present_IC.sum(dim=0)
        # Rows of the images with each category, first in each line.
        self._with_CI = present_IC.T.int().argsort(dim=1, descending=True, stable=True)
        self._with_CI = self._with_CI[:, : int(self._count_C.max())].contiguous()

    def draw(self, batch: int, size: int, questions: int, generator: torch.Generator) -> Haystacks:
        """A batch of ``batch`` haystacks of ``size`` images with ``questions`` questions each.

        Raises:
            UserError: the pool has too few images that hold some anchor and no other.
        """
        count, categories = len(self.present_IC), self.present_IC.shape[1]
        anchors = min(4, size if size < 3 else size // 2, questions)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator)

        anchors_BK = uniform(batch, categories).argsort(dim=1)[:, :anchors]
        taken_BC = torch.zeros(batch, categories, dtype=torch.bool).scatter_(1, anchors_BK, True)

        images_BN = torch.randint(count, (batch, size), generator=generator)
        for _ in range(_TRIES):
            bad = (self.present_IC[images_BN] & taken_BC[:, None]).any(dim=2)
            if not bad.any():
                break
            images_BN[bad] = torch.randint(count, (int(bad.sum()),), generator=generator)
        else:
            raise UserError("the pool has too few images without the anchors: draw more images")

        def find(of_X: Tensor) -> Tensor:
            return self._with_CI[of_X, (uniform(*of_X.shape) * self._count_C[of_X]).long()]

        needles_BK = find(anchors_BK)
        for _ in range(_TRIES):
            bad = (self.present_IC[needles_BK] & taken_BC[:, None]).sum(dim=2) != 1
            if not bad.any():
                break
            needles_BK[bad] = find(anchors_BK[bad])
        else:
            raise UserError("the pool has too few images with just one anchor: draw more images")
        slots_BN = uniform(batch, size).argsort(dim=1)
        images_BN.scatter_(1, slots_BN[:, :anchors], needles_BK)

        which_BQ = torch.randint(anchors, (batch, questions), generator=generator)
        slot_BQ = slots_BN.gather(1, which_BQ)
        held_BQC = self.present_IC[images_BN.gather(1, slot_BQ)]
        free_BQC = ~taken_BC[:, None]
        if size == 1:
            other_BQC = ~held_BQC
        else:
            step_BQ = torch.randint(1, size, (batch, questions), generator=generator)
            other_BQC = self.present_IC[images_BN.gather(1, (slot_BQ + step_BQ) % size)]
        yes_BQC, no_BQC = held_BQC & ~other_BQC & free_BQC, other_BQC & ~held_BQC & free_BQC
        coin_BQ = uniform(batch, questions) < 0.5
        choice_BQC = torch.where(coin_BQ[..., None], yes_BQC, no_BQC)
        # The largest of random numbers, where there is a choice.
        targets_BQ = (uniform(*choice_BQC.shape) * choice_BQC).argmax(dim=2)
        return Haystacks(
            images_BN=images_BN,
            anchors_BQ=anchors_BK.gather(1, which_BQ),
            targets_BQ=targets_BQ,
            yes_BQ=coin_BQ,
            valid_BQ=yes_BQC.any(dim=2) & no_BQC.any(dim=2),
            others_BQC=held_BQC & free_BQC,
        )
