"""The objective: a container of terms that do not change each other."""

import torch

from laid.losses.alignment import AlignmentArgs
from laid.losses.divergence import DivergenceArgs
from laid.losses.retrieval import RetrievalArgs
from laid.losses.term import ModelPair
from laid.training.objective import Objective, ObjectiveArgs


def test_a_term_is_the_same_beside_others_that_ask_for_more(student, teacher, haystacks):
    """Of two steps: terms may keep state. Each is run alone, and with all."""
    models = ModelPair(student.shape, teacher.shape, 700, student.turn, teacher.turn)
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
