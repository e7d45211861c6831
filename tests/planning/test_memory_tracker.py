"""Memory by phase and kind, from real tensors."""

import torch

from laid.planning.memory_tracker import MemoryTracker


def test_a_storage_is_counted_once_from_allocation_to_release():
    tracker = MemoryTracker()
    with tracker.watching():
        tracker.enter("one")
        x = torch.ones(1000)
        view = x[10:].view(11, 90)
        tracker.enter("two")
        y = x + 1
        del x, view
        tracker.enter("three")
        del y
        tracker.enter("four")
    peaks = tracker.peaks()
    assert [peaks[name].total() for name in ("one", "two", "three", "four")] == [
        4000,
        8000,
        4000,
        0,
    ]


def test_memory_is_counted_by_kind():
    tracker = MemoryTracker(frozenset({50}))
    with tracker.watching():
        tracker.enter("step")
        weight = torch.ones(50, 8)
        logits = torch.ones(3, 8) @ weight.T
        tracker.tag("student", [weight])
    peak = tracker.peaks()["step"]
    assert peak["student"] == weight.numel() * 4
    assert peak["logits"] == logits.numel() * 4
    assert sum(peak.values()) == peak.total()


def test_storages_that_are_freed_and_allocated_again_are_tracked():
    tracker = MemoryTracker()
    with tracker.watching():
        x = torch.ones(1000)
        tracker.enter("freeing")
        x.untyped_storage().resize_(0)
        tracker.enter("freed")
        tracker.enter("allocated")
        x.untyped_storage().resize_(4000)
    assert tracker.peaks()["freed"].total() == 0
    assert tracker.peaks()["allocated"].total() == 4000
    y = torch.ones(5)
    y.untyped_storage().resize_(0)  # outside nothing is tracked
    assert tracker.peaks()["allocated"].total() == 4000
