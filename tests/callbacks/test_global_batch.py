"""An optimizer step has the same haystacks on any number of devices."""

import pytest

from laid.callbacks.global_batch import split_global_batch


@pytest.mark.parametrize(
    ("global_batch", "micro_batch", "ranks", "expected"),
    [
        (8, 1, 1, (1, 8)),
        (8, 2, 4, (2, 1)),
        (8, 1, 4, (1, 2)),
        (8, 4, 4, (2, 1)),  # each rank's share is smaller than a micro-batch
        (8, 8, 1, (8, 1)),
    ],
)
def test_micro_batch_and_accumulation(global_batch, micro_batch, ranks, expected):
    found = split_global_batch(global_batch, micro_batch, ranks)
    assert found == expected
    assert found[0] * found[1] * ranks == global_batch


@pytest.mark.parametrize("split", [(8, 3, 1), (8, 1, 3), (2, 4, 1), (2, 1, 4)])
def test_a_global_batch_that_can_not_be_split_evenly_is_refused(split):
    with pytest.raises(ValueError, match="choose a multiple of"):
        split_global_batch(*split)
