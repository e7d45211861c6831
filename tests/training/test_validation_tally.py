"""What a validation logs: accuracy in all, by haystack size, and of several sources by each."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from bare_entry import BARE

from laid.common.errors import UserError
from laid.data.entries import CONVERSATION_FEATURES, HaystackEntry, dataset_of
from laid.training.validation_tally import ValidationTally

HAYSTACK = HaystackEntry(id="h", question="?", answer="yes", size=2, images=("a", "b"))
MINE = replace(BARE, id="mine", source="a/my.jsonl")
OTHER = replace(BARE, id="other", source="b/other.jsonl", size=2, images=("a", "b"))


def tally(*entries):
    return ValidationTally(dataset_of(entries, CONVERSATION_FEATURES), torch.device("cpu"))


def counted(of, *answers):
    """Adds answers (entry, whether it is right, whether it counts); gives what is logged."""
    records = [SimpleNamespace(size=entry.size, correct=right) for entry, right, _ in answers]
    entries, _, counts = zip(*answers, strict=True)
    of.add(records, SimpleNamespace(entries=entries, counted=counts))
    return {name: float(share) for name, share in of.accuracies(of.counts_K2).items()}


def test_several_sources_are_logged_each_by_itself():
    of = tally(HAYSTACK, MINE, OTHER)
    found = counted(of, (HAYSTACK, True, True), (MINE, False, True), (MINE, True, False))
    assert found == {
        "val/accuracy": 0.5, "val/accuracy_0": 0.0, "val/accuracy_2": 1.0,
        "val/haystacks/accuracy": 1.0, "val/my/accuracy": 0.0,
    }  # fmt: skip
    found = counted(of, (OTHER, False, True), (OTHER, True, True))
    assert (found["val/other/accuracy"], found["val/accuracy_2"]) == (0.5, pytest.approx(2 / 3))
    # Sources that a rank has not met are counted all the same, so that ranks can be summed.
    assert tally(HAYSTACK, MINE, OTHER).counts_K2.shape == of.counts_K2.shape


def test_one_source_is_accuracy_by_size_alone():
    for entry in (HAYSTACK, MINE):
        found = counted(tally(entry), (entry, True, True))
        assert found == {"val/accuracy": 1.0, f"val/accuracy_{entry.size}": 1.0}


def test_two_sources_of_one_name_are_refused():
    for source in ("b/my.jsonl", ""):
        other = replace(HAYSTACK, source=source)
        mine = replace(MINE, source="a/my.jsonl" if source else "a/haystacks.jsonl")
        with pytest.raises(UserError, match=r"data\.validate\.source: .* would both be reported"):
            tally(mine, other)
