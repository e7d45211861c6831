"""The scoring rule of Visual Haystacks: the gold word among the answer's words."""

import pytest

from laid.evaluation.scoring import score_answer


@pytest.mark.parametrize("gold", ["yes", "no"])
@pytest.mark.parametrize(
    "frame", ["{}", "{}.", "**{}**", "_{}_", "Well, {}, I think.", "\n{}\n", "“{}”"]
)
def test_the_gold_word_anywhere_and_in_any_case_is_correct_and_the_other_is_not(gold, frame):
    other = {"yes": "no", "no": "yes"}[gold]
    for spell in (str.lower, str.upper, str.title):
        assert score_answer(frame.format(spell(gold)), gold) == (True, True)
        assert score_answer(frame.format(spell(other)), gold) == (False, True)


@pytest.mark.parametrize(
    "answer", ["", "I can't tell.", "yesterday", "nothing, none", "noyes", "1"]
)
def test_words_that_only_contain_yes_or_no_are_no_answer(answer):
    for gold in ("yes", "no"):
        assert score_answer(answer, gold) == (False, False)


@pytest.mark.parametrize("answer", ["yes and no", "No, wait: yes!", "yes/no"])
def test_an_answer_with_both_words_is_correct_whichever_is_right(answer):
    assert score_answer(answer, "yes").correct
    assert score_answer(answer, "no").correct


def test_the_gold_answer_may_be_capitalised():
    assert score_answer("yes", "Yes").correct


@pytest.mark.parametrize("gold", ["", "true", "yes.", "maybe"])
def test_a_question_that_is_not_yes_or_no_is_refused(gold):
    with pytest.raises(ValueError, match="expected 'yes' or 'no'"):
        score_answer("yes", gold)
