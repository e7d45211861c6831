"""The gain columns of the paper's Table 1 come out of its accuracies."""

import numpy as np
import pytest

from laid.comparison.accuracy_curves import gain
from laid.evaluation.results import long_sizes, short_sizes

SIZES = (1, 5, 10, 20, 50, 100, 150)
# Accuracies in percent as the paper's Table 1 prints them.
PRINTED = {
    "7B": [80.22, 68.45, 62.19, 57.21, 54.73, 51.08, 47.43],
    "7B YaRN": [80.03, 63.78, 62.09, 55.96, 56.26, 47.96, 42.36],
    "7B SelfExtend": [78.53, 62.58, 58.69, 53.01, 50.35, 45.12, 40.12],
    "7B SFT": [97.78, 92.92, 85.80, 84.73, 63.10, 52.28, 43.08],
    "7B LAid": [92.83, 83.26, 80.46, 74.09, 67.04, 63.37, 60.17],
    "3B": [85.91, 65.70, 62.09, 52.16, 50.22, 47.80, 41.67],
    "3B YaRN": [86.27, 72.86, 57.79, 55.74, 52.20, 45.07, 39.97],
    "3B SelfExtend": [77.89, 64.69, 54.11, 47.95, 41.13, 35.05, 31.25],
    "3B SFT": [98.20, 91.88, 87.48, 68.89, 52.34, 48.01, 42.18],
    "3B LAid": [96.83, 83.34, 74.29, 63.27, 58.20, 53.91, 50.23],
}


def computed(row, part):
    method = dict(zip(SIZES, PRINTED[row], strict=True))
    base = dict(zip(SIZES, PRINTED[row[:2]], strict=True))
    return 100 * gain(method, base, part(SIZES))


@pytest.mark.parametrize(
    ("row", "short", "long"),
    [
        ("7B LAid", 24.1, 24.5),
        ("3B LAid", 20.1, 16.4),
        ("7B SFT", 35.9, None),
        ("7B YaRN", None, -4.7),
        ("7B SelfExtend", -5.9, -11.7),
        ("3B YaRN", 2.8, -1.9),
        ("3B SelfExtend", -7.9, -23.3),
        ("3B SFT", None, 2.0),
    ],
)
def test_the_papers_gains_are_those_of_its_accuracies(row, short, long):
    for printed, part in ((short, short_sizes), (long, long_sizes)):
        if printed is not None:
            # The paper rounds some and cuts off others.
            assert computed(row, part) == pytest.approx(printed, abs=0.06)


@pytest.mark.parametrize(
    ("row", "part", "printed", "ours"),
    [
        ("7B SFT", long_sizes, 3.6, 2.82),
        ("7B YaRN", short_sizes, -2.5, -2.35),
        ("3B SFT", short_sizes, 31.5, 31.78),
    ],
)
def test_three_of_the_papers_gains_are_not_those_of_its_accuracies(row, part, printed, ours):
    # As docs/paper.md says.
    assert computed(row, part) == pytest.approx(ours, abs=0.005)
    assert abs(computed(row, part) - printed) > 0.1


def test_short_and_long_are_the_papers_windows_and_nothing_between_belongs_to_either():
    sizes = (150, 1, 20, 21, 49, 50)
    assert short_sizes(sizes) == [1, 20]
    assert long_sizes(sizes) == [50, 150]


def test_a_gain_of_replicates_is_that_of_each():
    rng = np.random.default_rng(0)
    mine, base = ({s: rng.random(4) for s in (1, 50)} for _ in range(2))
    together = gain(mine, base, (1, 50))
    for index in range(4):
        one = [{s: float(of[s][index]) for s in of} for of in (mine, base)]
        assert together[index] == pytest.approx(gain(*one, (1, 50)))


def test_against_a_base_of_nothing_a_gain_is_infinite_and_nothing_of_nothing_is_none():
    assert gain({1: 0.5}, {1: 0.0}, [1]) == np.inf
    assert gain({1: 0.0}, {1: 0.0}, [1]) == 0
