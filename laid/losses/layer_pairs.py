"""Which student layer is compared with which teacher layer.

Shape suffixes: S student heads, T teacher heads.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from laid.common.errors import UserError
from laid.losses.attention_rows import likeness, question_rows, row_logits
from laid.losses.term import CalibrationData, ModelPair, Term
from laid.signals.model_signals import Wanted
from laid.signals.token_choice import ALL, QUESTION, Tokens

Layers = Literal["final", "all", "matched"] | list[tuple[int, int]]
"""Which are compared, as ``AlignmentArgs.layers`` says."""
Pairs = list[tuple[int, int]]
"""(student layer, teacher layer)."""


class LayerPairTerm(Term):
    """A term that compares student and teacher in pairs of layers."""

    layers: Tensor
    queries: Tokens = ALL
    keys: Tokens = ALL
    """As those of ``Wanted``, of the teacher."""

    def __init__(self, layers: Layers, models: ModelPair, setting: str):
        """Raises:
        UserError: as ``layer_pairs``.
        """
        super().__init__()
        self.models = models
        self.pairs = layer_pairs(layers, models, setting)
        self.is_matched = layers == "matched"
        self.register_buffer("layers", torch.tensor(self.pairs))

    @property
    def of_student(self) -> Wanted:
        return wanted_of(self.pairs)[0]

    @property
    def of_teacher(self) -> Wanted:  # type: ignore[override]  # read only
        return replace(wanted_of(self.pairs)[1], queries=self.queries, keys=self.keys)

    @property
    def ever_of_teacher(self) -> Wanted:
        assert self.models.teacher is not None
        if not self.is_matched:
            return self.of_teacher
        return self.of_teacher | Wanted(tuple(range(self.models.teacher.layers)), queries=QUESTION)

    def calibrate(self, data: CalibrationData) -> str | None:
        """Under ``matched`` pairs each student layer with the teacher layer whose heads look at the
        same images."""
        if not self.is_matched:
            return None
        assert self.models.teacher is not None
        # Of each student head the most similar teacher head counts, weighted by how much the
        # student head looks at some images rather than at others.
        theirs = range(self.models.teacher.layers)
        tried = [(s, t) for s, _ in self.pairs for t in theirs]
        similar, energy = similarity(tried, self.models, data)
        score = {
            (s, t): float((similar[s, t].amax(1) * energy[s]).sum() / energy[s].sum())
            for s, t in tried
        }
        self.pairs = [max(((s, t) for t in theirs), key=score.__getitem__) for s, _ in self.pairs]
        self.layers.copy_(torch.tensor(self.pairs))
        return f"layer pairs (student, teacher) by attention rows: {self.pairs}"

    def restored(self) -> None:
        self.pairs = [(s, t) for s, t in self.layers.tolist()]


def layer_pairs(layers: Layers, models: ModelPair, setting: str) -> Pairs:
    """The pairs that a setting names; ``matched`` is ``all`` until calibration.

    Args:
        setting: its name, for messages.

    Raises:
        UserError: a layer that does not exist, an empty list, or a pair given twice.
    """
    assert models.teacher is not None
    ours, theirs = models.student.layers, models.teacher.layers
    if layers == "final":
        return [(ours - 1, theirs - 1)]
    if layers in ("all", "matched"):
        if ours == 1:
            return [(0, theirs - 1)]
        depth = (theirs - 1) / (ours - 1)
        # Halves are rounded up: of two teacher layers equally near, the later has seen more.
        return [(s, int(s * depth + 0.5)) for s in range(ours)]
    assert not isinstance(layers, str)
    pairs = [(s, t) for s, t in layers]
    if not pairs:
        raise UserError(f"{setting} is empty: give final, all or pairs such as [[27, 63]]")
    for s, t in pairs:
        if not (0 <= s < ours and 0 <= t < theirs):
            raise UserError(
                f"{setting}: no pair [{s}, {t}]; the student has layers 0 to {ours - 1} and the "
                f"teacher 0 to {theirs - 1}"
            )
    if len(set(pairs)) < len(pairs):
        raise UserError(f"{setting}: a pair is given twice in {pairs}")
    return pairs


def wanted_of(pairs: Pairs) -> tuple[Wanted, Wanted]:
    """Queries and keys of the pairs' layers, of student and teacher."""
    student, teacher = zip(*pairs, strict=True)
    return Wanted(tuple(dict.fromkeys(student))), Wanted(tuple(dict.fromkeys(teacher)))


def similarity(
    pairs: Pairs, models: ModelPair, data: CalibrationData
) -> tuple[dict[tuple[int, int], Tensor], dict[int, Tensor]]:
    """How similarly student and teacher heads attend to the images.

    Returns:
        Correlations ``[S, T]`` by layer pair, and ``energy_S`` by student layer.
    """
    products: dict[tuple[int, int], Tensor] = {}
    energies: dict[tuple[int, int], Tensor] = {}
    wanted = (replace(one, queries=QUESTION) for one in wanted_of(pairs))
    for inputs, student, teacher in data.signals(*wanted):
        rows = question_rows(inputs)
        ours_BSRL = {s: row_logits(x, rows, models.turn) for s, x in student.qk.items()}
        theirs_BTRL = {t: row_logits(x, rows, models.teacher_turn) for t, x in teacher.qk.items()}
        for s, t in pairs:
            product_ST, energy_H = likeness(ours_BSRL[s], theirs_BTRL[t], rows)
            products[s, t] = products.get((s, t), 0.0) + product_ST
            energies[s, t] = energies.get((s, t), 0.0) + energy_H
    similar: dict[tuple[int, int], Tensor] = {}
    of_student: dict[int, Tensor] = {}
    for (s, t), energy_H in energies.items():
        energy_S, energy_T = energy_H.split(list(products[s, t].shape))
        similar[s, t] = products[s, t] / (energy_S[:, None] * energy_T).sqrt().clamp(min=1e-12)
        of_student[s] = energy_S
    return similar, of_student
