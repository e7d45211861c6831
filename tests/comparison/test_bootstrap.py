"""Bootstrap intervals cover what they should, and don't hang on the order of things."""

import numpy as np
import pytest

from laid.comparison.bootstrap import replicate
from laid.comparison.methods import Answers, Method, read_methods
from laid.evaluation.percentile_interval import interval


def method(correct_SE, size=5, label="m"):
    seeds, n = correct_SE.shape
    ids = tuple(f"e{index:04d}" for index in range(n))
    answers = Answers("entries x", {size: ids}, {size: correct_SE})
    return Method(label, (), (), tuple(range(seeds)), answers)


def test_intervals_of_one_model_cover_its_accuracy():
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(400):
        one = method(rng.random((1, 100)) < 0.7, label=f"m{trial}")
        low, high = interval(replicate(one, 500)[5])
        inside += low <= 0.7 <= high
    # 95% but for the percentile bootstrap's bias and 400 trials' spread (1.1 points).
    assert 0.91 < inside / 400 < 0.99


def test_intervals_of_several_seeds_cover_the_methods_accuracy():
    rng = np.random.default_rng(1)
    inside = wilson = 0
    for trial in range(300):
        # The seeds' own accuracies differ by 5 points, and entries are hard or easy for all.
        skill = 0.7 + 0.05 * rng.standard_normal((4, 1))
        hard = 0.15 * np.sign(rng.standard_normal((1, 100)))
        several = method(rng.random((4, 100)) < skill - hard, label=f"m{trial}")
        low, high = interval(replicate(several, 500)[5])
        inside += low <= 0.7 <= high
        # What 400 independent answers would have.
        mean = several.answers.correct_SE[5].mean()
        wilson += abs(mean - 0.7) <= 1.96 * np.sqrt(0.21 / 400)
    assert inside / 300 > 0.91
    assert wilson / 300 < 0.88


def test_methods_that_were_asked_the_same_are_given_the_same_entries():
    rng = np.random.default_rng(2)
    correct = rng.random((1, 80)) < 0.5
    a, b = (replicate(method(correct, label=label), 50)[5] for label in "ab")
    assert np.array_equal(a, b)


def test_a_method_without_records_has_no_replicates():
    assert replicate(Method("m", (), (), (None,), None)) is None


def test_the_order_in_which_results_are_given_changes_no_number(made):
    rng = np.random.default_rng(3)
    paths = [
        made(name, {5: rng.random(40) < 0.6, 50: rng.random(40) < 0.5})
        for name in ("base", "laid-seed0", "laid-seed1", "sft")
    ]
    forth, back = ({m.label: m for m in read_methods(order)[0]} for order in (paths, paths[::-1]))
    assert forth.keys() == back.keys() == {"base", "laid", "sft"}
    for label, one in forth.items():
        assert one.accuracy() == back[label].accuracy()
        assert one.seeds == back[label].seeds
        for size, drawn in replicate(one, 100).items():
            assert np.array_equal(drawn, replicate(back[label], 100)[size])


def test_an_interval_is_the_middle_of_the_replicates():
    assert interval(np.arange(1001.0)) == pytest.approx((25, 975))
    low, high = np.zeros(100), np.full(100, np.inf)
    assert interval(low, high) == (0, np.inf)
