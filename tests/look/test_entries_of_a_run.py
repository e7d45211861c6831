"""Which entries ``laid look`` takes one from: as typed, else as the run tests."""

import pytest

from laid.look.look_command import entries_shown

RUN = {"source": ["a.jsonl"], "scoring": {"a.jsonl": "choice"}, "sizes": [3], "per_size": 2}
NOTHING = {"source": None, "split": None, "sizes": None, "per_size": None}


@pytest.mark.parametrize(
    ("typed", "source", "scoring", "sizes"),
    [
        ({}, ["a.jsonl"], {"a.jsonl": "choice"}, [3]),
        ({"sizes": [5]}, ["a.jsonl"], {"a.jsonl": "choice"}, [5]),
        ({"source": ["b.jsonl"]}, ["b.jsonl"], None, None),
        ({"split": "val2017"}, None, None, [3]),
    ],
)
def test_what_the_run_says_of_its_sources_is_not_of_others(typed, source, scoring, sizes):
    found = entries_shown(RUN, NOTHING | typed)
    assert (found.source, found.scoring, found.sizes) == (source, scoring, sizes)
