"""Rules for free answers: what each counts as right, and what every rule has in common."""

import itertools

import pytest

from laid.evaluation.scoring import SCORINGS, score_answer, words_of

GOLDS = {
    "yes-no": ["yes", "no"],
    "exact": ["A red ball", "3.5", "它是红色的", "Straße", "don't"],
    "contains": ["A red ball", "-3", "红色"],
    "numeric": ["12", "-3.5", "1,200", "3", "0.5", "ten"],
    "choice": ["A", "B", "(C)", "d."],
}
CASES = [(rule, gold) for rule, golds in GOLDS.items() for gold in golds]
ANSWERS = [
    "",
    "No.",
    "the RED ball!",
    "There is a red ball in it.",
    "2 + 10 = 12",
    "A",
    "(B) because",
    "Answer: C",
    "它是红色的",
    "1200 cm",
    "\u0000 * --",
]


@pytest.mark.parametrize(("rule", "gold"), CASES)
def test_the_right_answer_itself_is_right_however_it_is_dressed(rule, gold):
    for dressed in (gold, f"  {gold}\n", gold.upper(), gold.lower()):
        assert score_answer(dressed, gold, rule) == (True, True)
    if rule not in ("exact", "numeric"):
        assert score_answer(f"**{gold}**", gold, rule) == (True, True)


@pytest.mark.parametrize(("rule", "gold"), CASES)
def test_what_is_correct_is_compliant_and_compliance_does_not_depend_on_the_right_answer(
    rule, gold
):
    for answer in ANSWERS:
        scored = score_answer(answer, gold, rule)
        assert scored.compliant or not scored.correct
        others = (score_answer(answer, other, rule) for other in GOLDS[rule])
        assert {other.compliant for other in others} == {scored.compliant}


def test_exact_is_an_equivalence_and_contains_follows_from_it():
    texts = ["a red ball", "Red ball.", "the  RED-ball", "red", "ball red", "3.0", "3", "−3", "-3"]
    for one, other in itertools.product(texts, texts):
        exact = score_answer(one, other, "exact").correct
        assert exact == score_answer(other, one, "exact").correct
        assert exact == (words_of(one) == words_of(other))
        if exact:
            assert score_answer(one, other, "contains").correct
    assert words_of("a red ball") == words_of("the  RED-ball") != words_of("ball red")
    assert words_of("−3") == words_of("-3") != words_of("3")


def test_contains_looks_for_whole_words_in_their_order():
    def inside(answer, gold):
        return score_answer(answer, gold, "contains").correct

    assert inside("I see a red ball, and a dog.", "red ball")
    assert inside("它是红色的", "红色")
    for answer in ("a red, big ball", "ball red", "a redball", "infrared ball", ""):
        assert not inside(answer, "red ball")
    assert not inside("13.5", "3.5")
    assert not inside("कि", "की")


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("12", 12),
        ("There are 12.", 12),
        ("2 + 3 = 5", 5),
        ("**5**", 5),
        ("$1,200.50", 1200.5),
        ("-3", -3),
        ("−3 °C", -3),
        (".5", 0.5),
        ("about 50%", 50),
        ("two cats", 2),
        ("Three of them; no: 4", 4),
        ("5.", 5),
        ("٣", 3),
    ],
)
def test_numbers_are_compared_by_value(answer, value):
    for gold in (str(value), f"{value:.2f}", f"{value:,}"):
        assert score_answer(answer, gold, "numeric") == (True, True)
    assert not score_answer(answer, str(value + 1), "numeric").correct


@pytest.mark.parametrize("answer", ["3rd", "x3", "twofold", "none", "", "B2"])
def test_what_only_looks_like_a_number_is_none(answer):
    for gold in ("3", "2", "0"):
        assert score_answer(answer, gold, "numeric") == (False, False)


@pytest.mark.parametrize(
    "frame",
    [
        *("{}", "{}.", "({})", "[{}]", "**{}**", "{}. a cat", "{}) a cat", "{}\nbecause I see one"),
        *("The answer is {}.", "answer: {}", "The correct option is ({}) a cat", "I choose ({})."),
        *("The answer is {}", "Answer:\n{}", "The correct choice is {}, a cat"),
    ],
)
def test_a_letter_that_is_given_as_a_choice_counts(frame):
    for letter, gold in itertools.product("ABCD", "ABCD"):
        scored = score_answer(frame.format(letter), gold, "choice")
        assert scored == (letter == gold, True)


@pytest.mark.parametrize(
    "answer", ["A cat is in it.", "I see a cat", "cat.", "", "The answer is a cat", "BC", "3"]
)
def test_other_letters_are_no_choice(answer):
    for gold in "ABCI":
        assert score_answer(answer, gold, "choice") == (False, False)


@pytest.mark.parametrize(
    ("rule", "gold"),
    [
        ("yes-no", "maybe"),
        ("exact", "..."),
        ("contains", ""),
        ("numeric", "many"),
        ("numeric", "2 or 3"),
        ("choice", "a cat"),
        ("choice", "AB"),
    ],
)
def test_a_right_answer_that_a_rule_can_not_score_is_refused(rule, gold):
    with pytest.raises(ValueError, match="the right answer is given as"):
        score_answer("x", gold, rule)


def test_a_rule_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=", ".join(SCORINGS)):
        score_answer("x", "x", "fuzzy")
