"""Which tokens of a haystack are compared: all, those of the question, or drawn ones."""

from dataclasses import replace

import pytest
import torch

from laid.common.errors import UserError
from laid.losses.attention_rows import question_rows
from laid.signals.model_inputs import haystack_alone
from laid.signals.token_choice import ALL, QUESTION, Tokens, at_columns, tokens_named


@pytest.fixture
def inputs(haystacks):
    """Haystacks of 1, 3 and 4 images."""
    return haystacks(rows=[0, 2, 5]).inputs


@pytest.mark.parametrize("tokens", [Tokens(sample=20), Tokens(question=True, sample=20), QUESTION])
def test_an_entrys_tokens_are_the_same_in_any_batch(inputs, tokens):
    mask_BL = tokens.mask(inputs)
    for row in range(3):
        alone = haystack_alone(inputs, row)
        assert torch.equal(tokens.mask(alone)[0], mask_BL[row, : alone.tokens])
        assert not mask_BL[row, alone.tokens :].any()


def test_drawn_ones_are_spread_over_the_entry_and_differ_between_entries(inputs):
    ones_BL = torch.ones(3, 4000, dtype=torch.long)
    long = replace(inputs, input_ids_BL=ones_BL, attention_mask_BL=ones_BL)
    columns_BR, valid_BR = Tokens(sample=200).columns(long)
    assert valid_BR.all()
    for row_R in columns_BR // 1000:
        assert (torch.bincount(row_R, minlength=4) > 30).all()  # of 50 expected
    renamed = replace(long, entry_ids=["one", "two", "three"])
    both_BL = Tokens(sample=200).mask(long) & Tokens(sample=200).mask(renamed)
    assert (both_BL.sum(1) < 30).all()  # of 10 expected


def test_fewer_drawn_ones_are_a_part_of_more(inputs):
    few_BL, more_BL = (Tokens(sample=n).mask(inputs) for n in (8, 20))
    assert (few_BL.sum(1) == 8).all()
    assert (more_BL.sum(1) == 20).all()
    assert (more_BL | few_BL).equal(more_BL)


def test_as_many_as_there_are_is_all(inputs):
    mask_BL = Tokens(sample=inputs.input_ids_BL.shape[1]).mask(inputs)
    assert torch.equal(mask_BL, inputs.attention_mask_BL.bool())
    assert torch.equal(ALL.mask(inputs), mask_BL)


def test_the_questions_are_the_rows_that_look_for_images(inputs):
    columns_BR, valid_BR = QUESTION.columns(inputs)
    rows = question_rows(inputs)
    assert torch.equal(columns_BR, rows.columns_BR)
    assert torch.equal(valid_BR, rows.valid_BR)
    x_BLHD = torch.randn(*inputs.input_ids_BL.shape, 2, 3)
    assert torch.equal(at_columns(x_BLHD, columns_BR)[valid_BR], x_BLHD[QUESTION.mask(inputs)])


def test_a_union_chooses_what_either_does(inputs):
    both = Tokens(sample=30) | QUESTION | Tokens(sample=10)
    expected_BL = Tokens(sample=30).mask(inputs) | QUESTION.mask(inputs)
    assert torch.equal(both.mask(inputs), expected_BL)
    assert both | ALL == ALL
    columns_BR, valid_BR = both.columns(inputs)
    assert torch.equal(valid_BR.sum(1), expected_BL.sum(1))
    assert all(expected_BL[row, c] for row in range(3) for c in columns_BR[row][valid_BR[row]])


@pytest.mark.parametrize(
    "tokens", [ALL, QUESTION, Tokens(sample=20), Tokens(question=True, sample=20)]
)
def test_their_number_is_known_beforehand(inputs, tokens):
    """Up to chance: of the drawn ones some are the question's too."""
    for row in range(3):
        alone = haystack_alone(inputs, row)
        expected = tokens.count(alone.tokens, int(QUESTION.mask(alone).sum()))
        assert int(tokens.mask(alone).sum()) == pytest.approx(expected, abs=8)


def test_a_setting_names_them():
    assert tokens_named("all", "x") == ALL
    assert tokens_named("question", "x") == QUESTION
    assert tokens_named("sample:7", "x") == Tokens(sample=7)
    for text in ("", "sample", "sample:", "sample:0", "sample:-1", "sample:1.5", "every"):
        with pytest.raises(UserError, match=r"x '.*': expected all, question, or sample:N"):
            tokens_named(text, "x")
