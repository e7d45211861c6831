"""What the tests of records share."""

import pytest


@pytest.fixture
def path(tmp_path):
    """Where a records file may be begun."""
    return tmp_path / "run" / "records.jsonl"
