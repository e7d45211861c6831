"""The objective: a container of terms that do not change each other."""

import pytest
import torch

from laid.common.errors import UserError
from laid.losses.alignment import AlignmentArgs
from laid.losses.divergence import DivergenceArgs
from laid.losses.head_mixing import MixingArgs
from laid.losses.retrieval import RetrievalArgs
from laid.losses.term import ModelPair
from laid.signals.model_signals import Wanted
from laid.signals.token_choice import ALL, QUESTION
from laid.training.objective import Objective, ObjectiveArgs, wanted_of_teacher


def test_a_term_is_the_same_beside_others_that_ask_for_more(student, teacher, haystacks):
    """Of two steps: terms may keep state. Each is run alone, and with all."""
    models = ModelPair(student.shape, teacher.shape, 700, student.rotate, teacher.rotate)
    chosen = {
        "laid": AlignmentArgs(weight=1.0, layers="all"),
        "retrieval": RetrievalArgs(weight=1.0, layers="final"),
        "kl": DivergenceArgs(weight=1.0),
    }
    off = {"laid": AlignmentArgs(weight=0.0), "kl": DivergenceArgs(weight=0.0)}
    steps = [haystacks(rows=rows).inputs for rows in ([0, 2], [5, 1])]

    def losses(terms):
        objective = Objective(ObjectiveArgs(**(off | terms)), models)
        with torch.no_grad():
            return [
                objective(
                    student.signals(inputs, objective.of_student),
                    teacher.signals(inputs, objective.of_teacher),
                    inputs,
                )[1]
                for inputs in steps
            ]

    together = losses(chosen)
    for name, args in chosen.items():
        alone = losses({name: args})
        for ours, theirs in zip(together, alone, strict=True):
            assert torch.equal(ours[name], theirs[name]), name


def test_a_term_that_compares_images_needs_entries_that_have_some():
    some = {"retrieval": RetrievalArgs(weight=1.0)}, {"laid": AlignmentArgs(layers="matched")}
    for terms in some:
        args = ObjectiveArgs(**terms)
        args.check_entries([0, 0, 1], [[], [], []])
        with pytest.raises(UserError, match="none of the 2 training entries has an image"):
            args.check_entries([0, 0], [[], []])
    ObjectiveArgs().check_entries([0, 0], [[], []])  # Eq. 7, KL and SFT


def test_labels_need_the_needles_of_every_entry_with_images():
    args = ObjectiveArgs(retrieval=RetrievalArgs(weight=1.0, target="label"))
    args.check_entries([2, 0, 1], [[1], [], [0]])
    with pytest.raises(UserError, match="2 of 3 training entries do not say which"):
        args.check_entries([2, 3, 1], [[], [], [0]])


def test_terms_are_computed_in_float32_under_autocast(student, teacher, haystacks):
    """Autocast is for the models: products of the terms would be rounded to 8 bits, and on CUDA be
    of another dtype than what they are added to."""
    models = ModelPair(student.shape, teacher.shape, 700, student.rotate, teacher.rotate)
    args = ObjectiveArgs(
        laid=AlignmentArgs(weight=1.0, layers="all"),
        retrieval=RetrievalArgs(weight=1.0, layers="all"),
        kl=DivergenceArgs(weight=1.0),
    )
    inputs = haystacks(rows=[2, 5]).inputs
    with torch.no_grad():
        asked = (
            student.signals(inputs, Objective(args, models).of_student),
            teacher.signals(inputs, Objective(args, models).of_teacher),
        )
        plain = Objective(args, models)(*asked, inputs)[1]
        with torch.autocast("cpu", torch.bfloat16):
            found = Objective(args, models)(*asked, inputs)[1]
    for name, value in plain.items():
        assert torch.equal(found[name], value), name


MIXINGS = {
    "one-hot": MixingArgs(),
    "shared": MixingArgs(keys="shared", initial="uniform"),
    "complex": MixingArgs(weights="complex", normalisation="none", initial="least-squares"),
}


@pytest.mark.parametrize("mixing", MIXINGS.values(), ids=MIXINGS)
@pytest.mark.parametrize("layers", ["all", "matched"])
def test_what_a_run_may_ask_of_the_teacher_is_known_without_building_its_terms(
    student, teacher, mixing, layers
):
    """Once the alignment has matched layers, it may ask for any; it alone asks for all queries."""
    models = ModelPair(student.shape, teacher.shape, 700, student.rotate, teacher.rotate)
    retrieval, kl = RetrievalArgs(weight=1.0, layers="final"), DivergenceArgs(weight=1.0)
    laid = AlignmentArgs(weight=1.0, layers=layers, mixing=mixing)
    found = wanted_of_teacher(ObjectiveArgs(laid=laid, retrieval=retrieval, kl=kl), models)
    assert set(found.layers) == ({0, 2} if layers == "all" else {0, 1, 2})
    assert found.logits
    assert found.queries == ALL
    off = AlignmentArgs(weight=0.0)
    found = wanted_of_teacher(ObjectiveArgs(laid=off, retrieval=retrieval, kl=kl), models)
    assert found == Wanted((2,), logits=True, queries=QUESTION)
