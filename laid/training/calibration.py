"""What a run learns of its two models before the first step."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor

from laid.losses.attention_rows import likeness, question_rows, row_logits
from laid.losses.head_mixing import HeadMixing, MixingArgs, MixingWeights
from laid.losses.least_squares import LeastSquares
from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import QK, Wanted
from laid.signals.teacher_source import TeacherSource
from laid.training.objective import Objective, ObjectiveArgs
from laid.vlm.vision_language_model import VLM

if TYPE_CHECKING:
    from laid.data.datamodule import HaystackDataModule

ROWS_SHARE = 0.9
"""Share that the teacher head whose rows are most alike begins with in the rows' mixture."""


def needs_calibration(mixing: MixingArgs, objective: ObjectiveArgs) -> bool:
    """Whether anything is to be found out before the first step."""
    fits = objective.laid > 0 and mixing.initial == "least-squares"
    return fits or objective.attn > 0 or objective.alignment.layers == "matched"


@torch.no_grad()
def calibrate(
    mixing: MixingWeights,
    objective: Objective,
    student: VLM,
    teacher: TeacherSource,
    data: "HaystackDataModule",
    device: torch.device,
) -> None:
    """Layer pairs and first mixing weights, from the first ``mixing.calibration`` entries.

    Once a run: mixing weights of a checkpoint stay as they are.
    """
    if not mixing.fitted:
        count = min(mixing.args.calibration, len(data.train_entries))
        entries = data.train_entries.select(range(count))
        batches = [batch.inputs for batch in data.probe(entries, device)]
        if objective.args.attn > 0 or objective.args.alignment.layers == "matched":
            _match_rows(mixing, objective, student, teacher, batches)
        if objective.args.laid > 0 and mixing.args.initial == "least-squares":
            _fit(mixing, objective, student, teacher, batches)
        mixing.fitted.fill_(True)
    objective.pairs = [(s, t) for s, t in mixing.pairs.tolist()]


def _match_rows(
    mixing: MixingWeights,
    objective: Objective,
    student: VLM,
    teacher: TeacherSource,
    batches: list[ModelInputs],
) -> None:
    """Pairs layers whose rows are most alike (``matched``), and begins the rows' mixtures."""
    pairs = [(s, t) for s, t in mixing.pairs.tolist()]
    matched = objective.args.alignment.layers == "matched"
    depth = teacher.layers
    tried = [(s, t) for s, _ in pairs for t in range(depth)] if matched else pairs
    alike, energy = _alike(tried, objective, student, teacher, batches)
    if matched:
        # Of each student head the teacher head that is most like it; heads count as far as they
        # look at some images rather than others.
        score = {
            (s, t): float((alike[s, t].amax(1) * energy[s]).sum() / energy[s].sum())
            for s, t in tried
        }
        pairs = [(s, max(range(depth), key=lambda t: score[s, t])) for s, _ in pairs]
        mixing.pairs.copy_(torch.tensor(pairs))
        if rank_zero_only.rank == 0:
            print(f"laid: layer pairs (student, teacher) by attention rows: {pairs}")
    for head_mixing, pair in zip(mixing.rows, pairs, strict=False):
        alike_ST = alike[pair]
        rest = (1 - ROWS_SHARE) / max(alike_ST.shape[1] - 1, 1)
        w_ST = torch.full_like(alike_ST, rest)
        w_ST.scatter_(1, alike_ST.argmax(1, keepdim=True), ROWS_SHARE)
        cast(HeadMixing, head_mixing).set_weights(w_ST)


def _alike(
    pairs: list[tuple[int, int]],
    objective: Objective,
    student: VLM,
    teacher: TeacherSource,
    batches: list[ModelInputs],
) -> tuple[dict[tuple[int, int], Tensor], dict[int, Tensor]]:
    """How much alike student and teacher heads look among the images.

    Returns:
        Correlations ``[S, T]`` by layer pair, and ``energy_S`` by student layer.
    """
    assert objective.rotary is not None
    turn = objective.rotary
    products: dict[tuple[int, int], Tensor | float] = dict.fromkeys(pairs, 0.0)
    energies: dict[tuple[int, int], Tensor | float] = dict.fromkeys(pairs, 0.0)
    for inputs, ours, theirs in _both(pairs, student, teacher, batches):
        rows = question_rows(
            inputs.attention_mask_BL,
            inputs.mm_token_type_ids_BL,
            inputs.position_ids_3BL,
        )
        ours_BSRN = {s: row_logits(x.q, x.k, rows, turn) for s, x in ours.items()}
        theirs_BTRN = {t: row_logits(x.q, x.k, rows, turn) for t, x in theirs.items()}
        for s, t in pairs:
            product, energy = likeness(ours_BSRN[s], theirs_BTRN[t], rows)
            products[s, t] += product
            energies[s, t] += energy
    alike: dict[tuple[int, int], Tensor] = {}
    of_student: dict[int, Tensor] = {}
    for (s, t), energy_H in cast(dict[tuple[int, int], Tensor], energies).items():
        product_ST = cast(Tensor, products[s, t])
        energy_S, energy_T = energy_H.split(list(product_ST.shape))
        alike[s, t] = product_ST / (energy_S[:, None] * energy_T).sqrt().clamp(min=1e-12)
        of_student[s] = energy_S
    return alike, of_student


def _fit(
    mixing: MixingWeights,
    objective: Objective,
    student: VLM,
    teacher: TeacherSource,
    batches: list[ModelInputs],
) -> None:
    """Lets the mixing weights begin where the student fits the teacher's heads best."""
    pairs = [(s, t) for s, t in mixing.pairs.tolist()]
    is_complex = mixing.args.weights == "complex"
    problems = [(LeastSquares(is_complex), LeastSquares(is_complex)) for _ in pairs]
    for inputs, ours, theirs in _both(pairs, student, teacher, batches):
        for (queries, keys), (s, t) in zip(problems, pairs, strict=True):
            queries.add(ours[s].q, theirs[t].q, inputs.attention_mask_BL)
            keys.add(ours[s].k, theirs[t].k, inputs.attention_mask_BL)
    for pair, (queries, keys) in enumerate(problems):
        queries.into(cast(HeadMixing, mixing.q[pair]))
        keys.into(cast(HeadMixing, mixing.k[pair]))


def _both(
    pairs: Sequence[tuple[int, int]],
    student: VLM,
    teacher: TeacherSource,
    batches: Sequence[ModelInputs],
) -> Iterator[tuple[ModelInputs, dict[int, QK], dict[int, QK]]]:
    """Each batch, with the queries and keys of the pairs' layers of student and teacher."""
    of_student = Wanted(layers=tuple({s: 0 for s, _ in pairs}))
    of_teacher = Wanted(layers=tuple({t: 0 for _, t in pairs}))
    for inputs in batches:
        yield inputs, student.signals(inputs, of_student).qk, teacher.signals(inputs, of_teacher).qk
