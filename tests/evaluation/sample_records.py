"""Records that the tests of records share."""

from dataclasses import replace

from laid.evaluation.records import Record

IDENTITY = {"checkpoint": "student-a", "data": "f00d", "generation": {"max_new_tokens": 8}}
OTHER = {"checkpoint": "student-b", "data": "f00d", "generation": {"max_new_tokens": 512}}
RECORD = Record("e0", 2, "yes", "Yes.", True, True, 1.0, 770, "single", False)


def some(n, start=0, **changes):
    """Records of n entries, of the same answer."""
    return [replace(RECORD, id=f"e{i}", **changes) for i in range(start, start + n)]
