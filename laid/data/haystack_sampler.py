"""Which images make a pair of haystacks: the sampling rule and when it can be kept.

For an anchor object, a target object and a haystack of n images with m needles, the images of the
split fall into four pools and a rest that is not used::

                        target is clear    no target
    anchor is clear          both            lone       <- needles
    no anchor                bait            plain      <- distractors

The rest are images where one of the two objects is there but not clear (see ``CocoIndex``).

A pair is two haystacks on the same anchor, target, n and m: to one the answer is yes, to the other
no. ``yes`` needles of the first hold the target and ``no`` < ``yes`` of the second. A classifier
that cannot find the needles might still count the images that hold the target; so the haystack
with fewer such needles gets ``yes - no`` more distractors with it, and the total is the same in
both. Where there are no distractors (n = m, the oracle) nothing can hide the needles and the
totals differ.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from laid.common.errors import UserError
from laid.data.coco_index import CocoIndex
from laid.data.entries import Mode

_Rows = npt.NDArray[np.intp]


Haystacks = dict[str, tuple[_Rows, _Rows]]
"""By answer, yes and no: the rows of the index in the order shown, and the ascending positions of
the needles in them."""


class HaystackSampler:
    """Draw pairs of haystacks from an index.

    Args:
        index: the images.
        categories: the objects to ask about; all by default.

    Raises:
        UserError: ``categories`` names fewer than two, one twice, or one that is not there.
    """

    def __init__(self, index: CocoIndex, categories: Sequence[str] | None = None) -> None:
        self.index = index
        self.categories = _chosen(index, categories)
        columns = [index.categories.index(name) for name in self.categories]
        # [C, N], so that the images of one category lie side by side.
        self._clear = np.ascontiguousarray(index.clear[:, columns].T)
        self._absent = np.ascontiguousarray(~index.present[:, columns].T)
        # [C, C] sizes of the pools, anchor by target. float32 counts exactly up to 2^24 images.
        clear, absent = self._clear.astype(np.float32), self._absent.astype(np.float32)
        self._both, self._lone, self._bait, self._plain = (
            (anchors @ targets.T).astype(np.int64)
            for anchors in (clear, absent)
            for targets in (clear, absent)
        )
        self._feasible: dict[tuple[int, int, Mode], npt.NDArray[np.bool_]] = {}

    def check(self, size: int, needles: int, mode: Mode) -> None:
        """Make sure that at least one pair can be drawn.

        Raises:
            UserError: none can; says what there is, and the largest size that would do.
        """
        if not self.feasible(size, needles, mode).any():
            raise UserError(self._why_not(size, needles, mode))

    def draw(
        self, rng: np.random.Generator, size: int, needles: int, mode: Mode
    ) -> tuple[str, str, Haystacks]:
        """Draw a pair: anchor, target and two haystacks; the anchor and target uniformly among all
        for which one is feasible.

        The distractors that hold the target follow a binomial at the rate of the target among
        the split's images without the anchor, moved into the range that the pools allow.
        """
        feasible = self.feasible(size, needles, mode)
        cases = np.argwhere(feasible.any(axis=0))
        anchor, target = cases[rng.integers(len(cases))]
        options = np.flatnonzero(feasible[:, anchor, target])
        yes, no = _options(needles, mode)[options[rng.integers(len(options))]]

        count = size - needles
        low, high = self._bait_range(count, yes - no)
        bait, plain = self._bait[anchor, target], self._plain[anchor, target]
        baited = 0
        if count:
            natural = rng.binomial(count, bait / (bait + plain))
            baited = int(np.clip(natural, low[anchor, target], high[anchor, target]))

        def haystack(hits: int, baited: int) -> tuple[_Rows, _Rows]:
            wanted = (
                (self._clear[anchor], self._clear[target], hits),
                (self._clear[anchor], self._absent[target], needles - hits),
                (self._absent[anchor], self._clear[target], baited),
                (self._absent[anchor], self._absent[target], count - baited),
            )
            images = np.concatenate([_pick(rng, a & t, k) for a, t, k in wanted])
            order = rng.permutation(size)
            return images[order], np.flatnonzero(order < needles)

        moved = yes - no if count else 0
        pair = {"yes": haystack(yes, baited), "no": haystack(no, baited + moved)}
        return self.categories[anchor], self.categories[target], pair

    def feasible(self, size: int, needles: int, mode: Mode) -> npt.NDArray[np.bool_]:
        """[options, C, C]: where each of ``_options`` can be had, anchor by target."""
        key = (size, needles, mode)
        if key not in self._feasible:
            count = size - needles
            masks = []
            for yes, no in _options(needles, mode):
                low, high = self._bait_range(count, yes - no)
                masks.append(self._enough_needles(needles, yes, no) & ((low <= high) | (not count)))
            self._feasible[key] = np.stack(masks)
        return self._feasible[key]

    def _enough_needles(self, needles: int, yes: int, no: int) -> npt.NDArray[np.bool_]:
        mask = (self._both >= yes) & (self._lone >= needles - no)
        np.fill_diagonal(mask, False)
        return mask

    def _bait_range(self, count: int, moved: int) -> tuple[npt.NDArray[np.int64], ...]:
        """[C, C] least and most distractors with the target in the yes haystack of a pair."""
        low = np.maximum(0, count - self._plain)
        high = np.minimum(count, self._bait) - moved
        return low, high

    def _why_not(self, size: int, needles: int, mode: Mode) -> str:
        largest = 0
        for yes, no in _options(needles, mode):
            usable = self._enough_needles(needles, yes, no)
            usable &= np.minimum(self._bait, self._plain) >= yes - no
            # low <= high, solved for the count.
            room = (self._bait + self._plain - (yes - no))[usable]
            largest = max(largest, needles + int(room.max(initial=-needles)))
        return (
            f"a haystack of {size} images with {needles} needle(s), mode {mode!r}, cannot be built "
            f"from split {self.index.split!r} of {len(self.index)} images and "
            f"{len(self.categories)} categories: "
        ) + (
            f"too few are free of the anchor and plain about the target. Ask for at most {largest} "
            "images, or use a split with more."
            if largest
            else "no two objects are found together, and apart, in enough of them. Use a split "
            "with more images, more categories, fewer needles or a smaller min_area."
        )


def _options(needles: int, mode: Mode) -> list[tuple[int, int]]:
    """Needles with the target in a pair's (yes, no) haystacks, as the question would have it."""
    if mode == "any":
        return [(yes, 0) for yes in range(1, needles + 1)]
    return [(needles, no) for no in range(needles)]  # "all"; with one needle also "single"


def _pick(rng: np.random.Generator, mask: npt.NDArray[np.bool_], count: int) -> _Rows:
    """``count`` different rows where ``mask`` holds."""
    if not count:
        return np.empty(0, dtype=np.intp)
    return rng.choice(np.flatnonzero(mask), count, replace=False, shuffle=False)


def _chosen(index: CocoIndex, categories: Sequence[str] | None) -> tuple[str, ...]:
    if categories is None:
        return index.categories
    if unknown := [name for name in categories if name not in index.categories]:
        raise UserError(
            f"unknown categories {unknown}; split {index.split!r} has "
            f"{', '.join(index.categories)}."
        )
    if len(categories) < 2 or len(set(categories)) < len(categories):
        raise UserError(f"expected two or more different categories, got {list(categories)}.")
    # In the index's own order: the order in which they are listed must not change the draw.
    return tuple(name for name in index.categories if name in categories)
