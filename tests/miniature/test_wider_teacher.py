"""The independent teacher with another head_dim: Eq. 7 cannot compare it, retrieval can."""

import runpy
from pathlib import Path

import pytest
import torch

from laid.common.errors import UserError
from laid.losses.alignment import AlignmentArgs
from laid.losses.retrieval import RetrievalArgs
from laid.losses.term import ModelPair
from laid.signals.model_signals import Wanted
from laid.training.objective import ObjectiveArgs
from laid.vlm.model_loading import ModelArgs
from laid.vlm.pair_check import check_pair
from laid.vlm.vision_language_model import VLM

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "wider_teacher.py"
NARROW = "tiny/teacher-independent"


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide") / "teacher"
    runpy.run_path(str(SCRIPT))["main"](folder)
    return VLM.load(ModelArgs(str(folder)))


def pair_with(teacher):
    student = VLM.load(ModelArgs("tiny/student-positions"))
    return student, ModelPair(student.shape, teacher.shape, 700, student.rotate, teacher.rotate)


def test_it_is_the_same_function_with_twice_the_head_dim(wide, haystacks):
    narrow, inputs = VLM.load(ModelArgs(NARROW)), haystacks().inputs
    assert wide.shape.head_dim == 2 * narrow.shape.head_dim
    with torch.no_grad():
        theirs, ours = (m.signals(inputs, Wanted(logits=True)) for m in (narrow, wide))
    torch.testing.assert_close(ours.logits_NV, theirs.logits_NV, atol=1e-4, rtol=1e-4)


def test_eq_7_refuses_it_and_retrieval_has_the_same_loss(wide, haystacks):
    inputs, losses = haystacks().inputs, []
    for teacher in (VLM.load(ModelArgs(NARROW)), wide):
        student, models = pair_with(teacher)
        term = RetrievalArgs(weight=1.0, layers="all").build(models)
        with torch.no_grad():
            asked = (
                student.signals(inputs, term.of_student),
                teacher.signals(inputs, term.of_teacher),
            )
            losses.append(term(*asked, inputs))
    assert losses[0] > 0.1
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=1e-5)
    configs = student.hf.config, wide.hf.config
    retrieval = ObjectiveArgs(laid=AlignmentArgs(0.0), retrieval=RetrievalArgs(1.0)).of_teacher
    assert retrieval == {"retrieval": False, "kl": False}
    check_pair(*configs, {"a": 1}, {"a": 1}, [])
    assert ObjectiveArgs().of_teacher["laid"]
    with pytest.raises(UserError, match="head_dim: student 32, teacher 64"):
        check_pair(*configs, {"a": 1}, {"a": 1}, ["laid"])
