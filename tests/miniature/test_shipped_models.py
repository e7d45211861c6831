"""The shipped models have the accuracy of their cards, tested again by the real command."""

import json
import re
from pathlib import Path

import pytest

from laid.evaluation.wilson import wilson_interval
from laid.miniature.packaged_models import LAYERS

ROOT = Path(__file__).parents[2]


def card(name):
    """Accuracy by size from the table of a packaged model's README.md: correct and n."""
    text = (ROOT / "laid" / "miniature" / "assets" / "tiny" / name / "README.md").read_text()
    rows = re.findall(r"^\| (\d+) \| ([\d.]+)% \| .* \| (\d+) \|$", text, re.MULTILINE)
    return {int(size): (round(float(share) * int(n) / 100), int(n)) for size, share, n in rows}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_a_card_holds_at_two_sizes(laid, work, name):
    laid(
        "test", "--config", ROOT / "configs" / "tiny.yaml", "--results", name,
        "--model.student.path", f"tiny/{name}", "--data.test.sizes", "[2, 50]",
        "--data.test.per_size", 60, "--data.seed", 77,
    )  # fmt: skip
    measured = json.loads((work / name / "results.json").read_text())["by_size"]
    claimed = card(name)
    assert set(claimed) == {1, 2, 5, 10, 20, 50, 100, 150}
    for size in (2, 50):
        cell = measured[str(size)]
        # 60 fresh questions against the card's: the two 99.9% intervals meet.
        low, high = wilson_interval(cell["correct"], cell["n"], confidence=0.999)
        card_low, card_high = wilson_interval(*claimed[size], confidence=0.999)
        assert low <= card_high
        assert card_low <= high
    assert claimed[2][0] >= 0.95 * claimed[2][1]
    assert (claimed[50][0] >= 0.95 * claimed[50][1]) == name.startswith("teacher")
