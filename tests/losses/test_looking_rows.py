"""Which rows of a question are taught: of a single image, of many rows, and in calibration."""

import pytest
import torch

from laid.losses.attention_rows import question_rows
from laid.losses.image_tokens import images_of
from laid.losses.retrieval_rows import looking_rows
from laid.losses.term import CalibrationData
from laid.signals.model_inputs import IGNORED
from laid.signals.model_signals import Wanted

SINGLE, LONGER = 0, 5
"""Rows of ``haystacks``: of one image, and of four."""


@pytest.fixture
def looked_from(teacher, haystacks):
    """The rows from which the teacher looks, as columns of each haystack in a batch."""

    def of(rows, count):
        inputs = haystacks(rows=rows).inputs
        with torch.no_grad():
            signals = teacher.signals(inputs, Wanted(layers=(0, 1, 2)))
        found = looking_rows(signals, inputs, images_of(inputs), teacher.rotate, count)
        pairs = zip(found.columns_BR, found.valid_BR, strict=True)
        return [columns_R[valid_R].tolist() for columns_R, valid_R in pairs]

    return of


def test_of_a_single_image_it_is_the_row_that_looks_at_it_most(
    looked_from, teacher, haystacks, full_forward
):
    """It has no other images to be looked at more than; so neither the sort nor padding decides."""
    teacher.hf.set_attn_implementation("eager")
    inputs = haystacks(rows=[SINGLE]).inputs
    assert inputs.images == 1
    with torch.no_grad():
        seen = full_forward(teacher, inputs, output_attentions=True).attentions
    images = images_of(inputs)
    asked_R = question_rows(inputs).columns_BR[0, 1:]  # the first is the image's own mark
    asked_R = asked_R[inputs.labels_BL[0, asked_R] == IGNORED]
    paid_R = sum(one[0][:, asked_R][..., images.column_N].sum(-1).square().sum(0) for one in seen)
    most = asked_R[paid_R.argsort(descending=True)].tolist()
    assert looked_from([SINGLE], 1) == [most[:1]]
    assert looked_from([SINGLE], 4) == [most[:4]]
    assert looked_from([LONGER, SINGLE], 4)[1] == most[:4]


@pytest.mark.parametrize("row", [SINGLE, LONGER])
def test_all_rows_are_those_of_the_question_without_marks_and_answer(looked_from, haystacks, row):
    """A mark belongs to its image, and would look at itself."""
    inputs = haystacks(rows=[row]).inputs
    answer = inputs.labels_BL[0] != IGNORED
    mark = int(inputs.last_visual_B1) + 1
    asked = [c for c in range(mark + 1, len(answer)) if not answer[c]]
    assert sorted(looked_from([row], 10_000)[0]) == asked


def test_calibration_does_not_see_the_answer(build_retrieval, student, teacher, haystacks):
    """Also where more rows are wanted than a question has."""
    heads = []
    for with_answer in (True, False):
        term = build_retrieval(rows=1000)
        batches = [haystacks(with_answer, rows=[row]).inputs for row in (2, LONGER)]
        with torch.no_grad():
            term.calibrate(CalibrationData(batches, student.signals, teacher.signals))
        heads.append(term.heads)
    torch.testing.assert_close(*heads)
