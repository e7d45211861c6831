"""Paired tests: exact, corrected, and only between models that were asked the same."""

import math
from itertools import product

import numpy as np
import pytest

from laid.comparison.bootstrap import replicate
from laid.comparison.methods import read_methods
from laid.comparison.paired_tests import holm, paired_test, sign_flip
from laid.comparison.study import Study


def against(one, base):
    """The tests of a method against a base: by size, and over short and long."""
    study = Study([one, base], base, None, thresholds=[0.75], replicates=500)
    return study.tests[one.label], study.windows[one.label]


def binomial(ahead, behind):
    """McNemar's exact test by hand: both tails of a fair coin's."""
    n, fewer = ahead + behind, min(ahead, behind)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)


def pair(*methods):
    return tuple(replicate(method, 2000) for method in methods)


@pytest.mark.parametrize("ahead", [0, 1, 5, 40])
@pytest.mark.parametrize("behind", [0, 1, 7, 41, 300])
def test_differences_of_one_are_mcnemars_binomial_test(ahead, behind):
    assert sign_flip([1] * ahead + [-1] * behind) == pytest.approx(
        binomial(ahead, behind), rel=1e-9
    )


def test_the_sign_flip_test_counts_every_pattern_of_signs():
    rng = np.random.default_rng(3)
    for _ in range(5):
        differences = rng.integers(-3, 4, size=9).tolist()
        patterns = product((-1, 1), repeat=9)
        sums = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in patterns]
        share = np.mean(np.abs(sums) >= abs(sum(differences)))
        assert sign_flip(differences) == pytest.approx(share)


def test_entries_without_a_difference_change_nothing():
    assert sign_flip([1, 1, -1, 1, 0, 0, 0]) == sign_flip([1, 1, -1, 1])
    assert sign_flip([]) == sign_flip([0, 0]) == 1


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_under_no_difference_the_corrected_tests_of_a_method_seldom_find_one():
    rng = np.random.default_rng(7)
    found = 0
    for _ in range(400):
        ahead = rng.binomial(30, 0.5, size=8)
        found += min(holm([sign_flip([1] * a + [-1] * (30 - a)) for a in ahead])) < 0.05
    # The family's level is 0.05; three standard deviations of 400 trials are 0.033.
    assert found / 400 < 0.083


def test_identical_answers_differ_by_nothing_with_p_1(made):
    answers = {5: [True] * 30 + [False] * 20}
    (one, other), _ = read_methods([made("a", answers), made("b", answers)])
    test = paired_test(one, other, [5], pair(one, other))
    assert (test.difference, test.p, test.interval) == (0, 1, (0, 0))
    assert not test.significant


def test_a_difference_is_that_of_the_entries_and_turns_round_with_the_models(made):
    a = [True] * 40 + [False] * 10
    b = [True] * 28 + [False] * 20 + [True] * 2
    (one, other), _ = read_methods([made("a", {5: a}), made("b", {5: b})])
    forth = paired_test(one, other, [5], pair(one, other))
    back = paired_test(other, one, [5], pair(other, one))
    assert (forth.n, forth.ahead, forth.behind) == (50, 12, 2)
    assert forth.difference == pytest.approx(0.2)
    assert forth.p == back.p == pytest.approx(binomial(12, 2))
    assert back.difference == -forth.difference
    assert back.interval == pytest.approx([-end for end in reversed(forth.interval)], abs=0.021)
    assert forth.significant
    assert forth.interval[0] < 0.2 < forth.interval[1]


def test_pairing_finds_a_difference_that_two_separate_intervals_do_not(made):
    rng = np.random.default_rng(0)
    base = rng.random(100) < 0.6
    better = base.copy()
    better[np.flatnonzero(~base)[:8]] = True
    (one, other), _ = read_methods([made("a", {5: better}), made("b", {5: base})])
    low, _ = one.results[0].by_size[5].interval
    _, high = other.results[0].by_size[5].interval
    assert low < high
    assert paired_test(one, other, [5], pair(one, other)).significant


def test_sizes_are_one_family_and_short_and_long_another(made):
    rng = np.random.default_rng(1)
    sizes = (1, 20, 50, 100)
    one, other = ({size: rng.random(60) < accuracy for size in sizes} for accuracy in (0.8, 0.55))
    methods, _ = read_methods([made("a", one), made("b", other)])
    by_size, windows = against(*methods)
    for tests in (by_size, windows):
        assert [t.adjusted for t in tests.values()] == holm([t.p for t in tests.values()])
    assert windows["short"].sizes == (1, 20)
    assert windows["long"].sizes == (50, 100)
    assert windows["long"].n == 120


def test_seeds_are_pooled_entry_by_entry(made):
    rng = np.random.default_rng(2)
    seeds = [rng.random(40) < 0.7 for _ in range(3)]
    base = rng.random(40) < 0.5
    paths = [made(f"laid-seed{i}", {5: answers}) for i, answers in enumerate(seeds)]
    (laid, other), _ = read_methods([*paths, made("base", {5: base})])
    test = paired_test(laid, other, [5], pair(laid, other))
    mean = np.mean(seeds, axis=0)
    assert test.n == 40
    assert test.difference == pytest.approx(mean.mean() - base.mean())
    assert (test.ahead, test.behind) == ((mean > base).sum(), (mean < base).sum())
    whole = np.round(3 * (mean - base)).astype(int)
    assert test.p == pytest.approx(sign_flip(whole.tolist()))


def test_one_seed_given_thrice_is_no_more_evidence_than_once(made):
    rng = np.random.default_rng(4)
    answers, base = rng.random(60) < 0.7, rng.random(60) < 0.5
    paths = [made(f"laid-seed{i}", {5: answers}) for i in range(3)]
    paths += [made("once", {5: answers}), made("base", {5: base})]
    (thrice, once, other), _ = read_methods(paths)
    many, single = (paired_test(m, other, [5], pair(m, other)) for m in (thrice, once))
    assert (many.p, many.interval) == (pytest.approx(single.p), pytest.approx(single.interval))


def test_seeds_that_disagree_support_nothing_however_many_entries_there_are(made):
    # One seed always right, one never, one at the base's level: the mean is a little above.
    n = 400
    base = [index % 2 == 0 for index in range(n)]
    seeds = [[True] * n, [False] * 40 + [True] * (n - 40), [False] * n]
    paths = [made(f"laid-seed{i}", {5: answers}) for i, answers in enumerate(seeds)]
    (laid, other), _ = read_methods([*paths, made("base", {5: base})])
    test = paired_test(laid, other, [5], pair(laid, other))
    assert test.difference > 0.1
    assert test.p < 0.001  # of these three models
    assert test.interval[0] < 0 < test.interval[1]  # of the method
    assert not test.significant


def test_models_that_were_asked_other_entries_are_not_tested(made):
    a, b = made("a", {5: [True] * 20}), made("b", {5: [False] * 20}, entries="0ther")
    (one, other), _ = read_methods([a, b])
    assert paired_test(one, other, [5], pair(one, other)) is None


def test_models_that_answered_not_all_of_the_same_are_not_tested_there(made):
    a = made("a", {5: [True] * 20, 10: [True] * 20})
    b = made("b", {5: [False] * 20, 10: [False] * 19})
    methods, _ = read_methods([a, b])
    tests, windows = against(*methods)
    assert tests[5].significant
    assert tests[10] is None
    assert windows["short"] is None


def test_results_that_do_not_say_what_was_asked_are_not_taken_for_the_same(made):
    paths = [made(name, {5: [True] * 20}, entries=None) for name in ("a", "b")]
    (one, other), _ = read_methods(paths)
    assert paired_test(one, other, [5], pair(one, other)) is None
