"""What a run learns of its two models before the first step."""

from collections.abc import Iterable
from typing import cast

import torch

from laid.losses.least_squares import LeastSquares
from laid.losses.mixing import HeadMixing, MixingWeights
from laid.objective import Objective
from laid.vlm.inputs import ModelInputs
from laid.vlm.model import VLM
from laid.vlm.signals import TeacherSource


@torch.no_grad()
def fit_mixing(
    mixing: MixingWeights,
    objective: Objective,
    student: VLM,
    teacher: TeacherSource,
    batches: Iterable[ModelInputs],
) -> None:
    """Lets the mixing weights begin where the student fits the teacher's heads best."""
    is_complex = mixing.args.weights == "complex"
    problems = [(LeastSquares(is_complex), LeastSquares(is_complex)) for _ in objective.pairs]
    for inputs in batches:
        ours = student.signals(inputs, objective.of_student).qk
        theirs = teacher.signals(inputs, objective.of_teacher).qk
        for (queries, keys), (s, t) in zip(problems, objective.pairs, strict=True):
            queries.add(ours[s].q, theirs[t].q, inputs.attention_mask_BL)
            keys.add(ours[s].k, theirs[t].k, inputs.attention_mask_BL)
    for pair, (queries, keys) in enumerate(problems):
        queries.into(cast(HeadMixing, mixing.q[pair]))
        keys.into(cast(HeadMixing, mixing.k[pair]))
    mixing.fitted.fill_(True)
