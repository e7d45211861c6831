"""Where real numbers have shapes alone, whole numbers go on being computed."""

import torch

from laid.planning.ledger import Ledger
from laid.planning.shadow import shadow


def test_whole_numbers_are_computed():
    with shadow():
        ids = torch.arange(10)
        chosen = (ids > 3).nonzero()[:, 0]
        assert chosen.tolist() == [4, 5, 6, 7, 8, 9]
        assert torch.full((3,), 7).sum().item() == 21


def test_real_numbers_are_shapes_whatever_their_size():
    with shadow():
        x = torch.empty(2**20, 2**20)
        assert (x @ x).shape == (2**20, 2**20)


def test_known_indices_and_masks_choose_from_unknown_numbers():
    with shadow():
        x = torch.empty(4, 6)
        mask = torch.tensor([True, False, True, False])
        assert x[mask].shape == (2, 6)
        assert x[torch.tensor([0, 0, 3])].shape == (3, 6)


def test_what_unknown_numbers_decide_is_zero_and_no():
    with shadow():
        logits = torch.empty(5, 100)
        assert logits.argmax(-1).tolist() == [0] * 5
        assert not (logits > 0).any()
        assert logits.sum().item() == 1.0


def test_a_storage_is_booked_once_from_its_making_to_its_end():
    ledger = Ledger()
    with ledger.watching():
        ledger.enter("one")
        x = torch.ones(1000)
        view = x[10:].view(11, 90)
        ledger.enter("two")
        y = x + 1
        del x, view
        ledger.enter("three")
        del y
        ledger.enter("four")
    peaks = ledger.peaks()
    assert [peaks[name].bytes for name in ("one", "two", "three", "four")] == [4000, 8000, 4000, 0]


def test_memory_is_told_by_what_it_is_for():
    ledger = Ledger(frozenset({50}))
    with ledger.watching():
        ledger.enter("step")
        weight = torch.ones(50, 8)
        logits = torch.ones(3, 8) @ weight.T
        ledger.tag("student", [weight])
    peak = ledger.peaks()["step"]
    assert peak.of["student"] == weight.numel() * 4
    assert peak.of["logits"] == logits.numel() * 4
    assert sum(peak.of.values()) == peak.bytes


def test_storages_that_are_emptied_and_filled_again_are_followed():
    ledger = Ledger()
    with ledger.watching():
        x = torch.ones(1000)
        ledger.enter("emptied")
        x.untyped_storage().resize_(0)
        ledger.enter("empty")
        ledger.enter("filled")
        x.untyped_storage().resize_(4000)
    assert ledger.peaks()["empty"].bytes == 0
    assert ledger.peaks()["filled"].bytes == 4000
    y = torch.ones(5)
    y.untyped_storage().resize_(0)  # outside, PyTorch is as it was
    assert ledger.peaks()["filled"].bytes == 4000
