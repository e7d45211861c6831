"""Where the needles lie in a haystack."""

import pytest

from laid.evaluation.scoring import needle_depth


def test_depth_runs_from_the_first_image_to_the_last():
    depths = [needle_depth([position], 11) for position in range(11)]
    assert depths == sorted(depths)
    assert (depths[0], depths[5], depths[10]) == (0, 0.5, 1)


def test_several_needles_lie_at_their_mean():
    assert needle_depth([0, 10], 11) == 0.5
    assert needle_depth([0, 1, 2], 11) == needle_depth([1], 11)


def test_a_single_image_has_no_depth():
    assert needle_depth([0], 1) is None


@pytest.mark.parametrize(("positions", "size"), [([], 5), ([5], 5), ([-1], 5), ([0, 7], 5)])
def test_needles_outside_the_haystack_are_refused(positions, size):
    with pytest.raises(ValueError, match="needles at"):
        needle_depth(positions, size)
