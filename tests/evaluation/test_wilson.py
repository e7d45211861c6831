"""The Wilson interval."""

import pytest

from laid.evaluation.wilson import wilson_interval


@pytest.mark.parametrize(
    ("correct", "n", "lower", "upper"),
    [  # Newcombe, Statistics in Medicine 17 (1998), Table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_wilson_interval_has_the_published_values(correct, n, lower, upper):
    assert wilson_interval(correct, n) == pytest.approx((lower, upper), abs=5e-5)


def test_the_interval_lies_within_0_and_1_and_holds_the_share():
    for n in [*range(1, 60), 10**6]:
        for correct in {0, 1, n // 3, n - 1, n}:
            for confidence in (0.5, 0.95, 0.999):
                lower, upper = wilson_interval(correct, n, confidence)
                assert 0 <= lower <= correct / n <= upper <= 1
                assert lower < upper


def test_the_interval_is_mirrored_when_right_and_wrong_change_places():
    for correct in range(21):
        lower, upper = wilson_interval(correct, 20)
        assert wilson_interval(20 - correct, 20) == pytest.approx((1 - upper, 1 - lower))


def test_the_interval_narrows_with_n_and_widens_with_confidence():
    def width(n, confidence=0.95):
        lower, upper = wilson_interval(n // 2, n, confidence)
        return upper - lower

    assert width(10) > width(100) > width(1000)
    assert width(100, 0.9) < width(100, 0.95) < width(100, 0.99)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 10), (11, 10)])
def test_there_is_no_interval_without_answers(correct, n):
    with pytest.raises(ValueError, match="expected at least one answer"):
        wilson_interval(correct, n)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_confidence_is_a_share(confidence):
    with pytest.raises(ValueError, match=r"0\.95"):
        wilson_interval(1, 2, confidence)
