"""Which student layer is compared with which teacher layer.

Shape suffixes: S student heads, T teacher heads.
"""

from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from laid.common.errors import UserError
from laid.distributed.process_group import gather
from laid.losses.attention_rows import likeness, question_rows, row_logits
from laid.losses.term import CalibrationData, ModelPair, Term
from laid.signals.model_signals import AttentionShape, Wanted
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
        student, teacher = self.models.student, self.models.teacher
        assert teacher is not None
        # Of each student head the most similar teacher head counts, weighted by how much the
        # student head looks at some images rather than at others.
        tried = [(s, t) for s, _ in self.pairs for t in of_one_kind(student, teacher, s)]
        similar, energy = similarity(tried, self.models, data)
        score = {
            (s, t): float((similar[s, t].amax(1) * energy[s]).sum() / energy[s].sum())
            for s, t in tried
        }
        self.pairs = [
            max((pair for pair in tried if pair[0] == s), key=score.__getitem__)
            for s, _ in self.pairs
        ]
        # Sums on a GPU may differ in their last bits, and all ranks must compare the same layers.
        self.pairs = gather(self.pairs)[0]
        self.layers.copy_(torch.tensor(self.pairs))
        return f"layer pairs (student, teacher) by attention rows: {self.pairs}"

    def restored(self) -> None:
        self.pairs = [(s, t) for s, t in self.layers.tolist()]


def layer_pairs(layers: Layers, models: ModelPair, setting: str) -> Pairs:
    """The pairs that a setting names; ``matched`` is ``all`` until calibration.

    Args:
        setting: its name, for messages.

    Raises:
        UserError: a layer that does not exist, an empty list, a pair given twice, or one of layers
            of two kinds.
    """
    student, teacher = models.student, models.teacher
    assert teacher is not None
    pairs = _named_pairs(layers, student, teacher, setting)
    for s, t in pairs:
        if student.kind(s) != teacher.kind(t):
            last = [
                (s, t)
                for s in reversed(range(student.layers))
                for t in of_one_kind(student, teacher, s)[-1:]
            ]
            raise UserError(
                f"{setting} {layers}: the student's layer {s} is of kind {student.kind(s)} and the "
                f"teacher's layer {t} of kind {teacher.kind(t)}, which rotate and see differently; "
                "expected layers of one kind"
                + (f", such as the last ones, [{list(last[0])}]" if last else "")
            )
    return pairs


def of_one_kind(student: AttentionShape, teacher: AttentionShape, layer: int) -> list[int]:
    """The teacher's layers of the kind of a student's."""
    return [t for t in range(teacher.layers) if teacher.kind(t) == student.kind(layer)]


def _named_pairs(
    layers: Layers, student: AttentionShape, teacher: AttentionShape, setting: str
) -> Pairs:
    ours, theirs = student.layers, teacher.layers
    if layers == "final":
        return [(ours - 1, theirs - 1)]
    if layers in ("all", "matched"):
        depth = (theirs - 1) / max(ours - 1, 1)

        def nearest(s: int) -> int:
            place = s * depth if ours > 1 else depth
            # Of two teacher layers equally near, the later has seen more.
            among = of_one_kind(student, teacher, s) or range(theirs)
            return min(among, key=lambda t: (abs(t - place), -t))

        return [(s, nearest(s)) for s in range(ours)]
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
    teacher_shape = models.teacher
    assert teacher_shape is not None
    products: dict[tuple[int, int], Tensor] = {}
    energies: dict[tuple[int, int], Tensor] = {}
    wanted = (replace(one, queries=QUESTION) for one in wanted_of(pairs))
    for inputs, student, teacher in data.signals(*wanted):
        # With the mark's row: behind a short window it may be the only one that sees an image.
        rows = question_rows(inputs)
        seen = {s: rows.within(models.student.window(s)) for s in student.qk}
        ours_BSRL = {
            s: row_logits(x, seen[s], partial(models.rotate, layer=s))
            for s, x in student.qk.items()
        }
        theirs_BTRL = {
            t: row_logits(
                x, rows.within(teacher_shape.window(t)), partial(models.teacher_rotate, layer=t)
            )
            for t, x in teacher.qk.items()
        }
        for s, t in pairs:
            product_ST, energy_H = likeness(ours_BSRL[s], theirs_BTRL[t], seen[s])
            products[s, t] = products.get((s, t), 0.0) + product_ST
            energies[s, t] = energies.get((s, t), 0.0) + energy_H
    similar: dict[tuple[int, int], Tensor] = {}
    of_student: dict[int, Tensor] = {}
    for (s, t), energy_H in energies.items():
        energy_S, energy_T = energy_H.split(list(products[s, t].shape))
        similar[s, t] = products[s, t] / (energy_S[:, None] * energy_T).sqrt().clamp(min=1e-12)
        of_student[s] = energy_S
    return similar, of_student
