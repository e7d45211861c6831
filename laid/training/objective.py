"""Eq. 8: the weighted sum of the loss terms, and their calibration before the first step."""

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from operator import or_

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn

from laid.common.errors import UserError
from laid.data.datamodule import HaystackDataModule
from laid.losses.alignment import AlignmentArgs
from laid.losses.cross_entropy import CrossEntropyArgs
from laid.losses.divergence import DivergenceArgs
from laid.losses.image_share import ImageShareArgs
from laid.losses.retrieval import RetrievalArgs
from laid.losses.term import Ask, CalibrationData, Matrix, ModelPair, Term, TermArgs
from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import Signals, Wanted

log = logging.getLogger(__name__)


@dataclass
class ObjectiveArgs:
    """The terms of Eq. 8, a line each; a term of weight 0 is not built."""

    laid: AlignmentArgs = field(default_factory=AlignmentArgs)
    retrieval: RetrievalArgs = field(default_factory=RetrievalArgs)
    image_share: ImageShareArgs = field(default_factory=ImageShareArgs)
    kl: DivergenceArgs = field(default_factory=DivergenceArgs)
    sft: CrossEntropyArgs = field(default_factory=CrossEntropyArgs)

    def __post_init__(self) -> None:
        if not self.chosen:
            raise UserError("objective: all weights are 0, so there is nothing to train on")

    @property
    def chosen(self) -> dict[str, TermArgs]:
        """The settings of the terms that have a weight, by name."""
        every = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: args for name, args in every.items() if args.weight > 0}

    def check_entries(self, sizes: Collection[int], needles: Iterable[Sequence[int]]) -> None:
        """Sizes and needles of the training entries.

        Raises:
            UserError: a term needs images, and no entry has one; or the needles of all, and some
                have none.
        """
        needing = [name for name, args in self.chosen.items() if args.needs_images]
        if needing and not any(sizes):
            raise UserError(
                f"objective.{needing[0]} compares which images models look at, and none of the "
                f"{len(sizes)} training entries has an image: add entries with images "
                "(data.train.mixture)" + (", or leave its weight 0" if needing[0] != "laid" else "")
            )
        if any(args.needs_needles for args in self.chosen.values()):
            without = sum(bool(n) and not at for n, at in zip(sizes, needles, strict=True))
            if without:
                raise UserError(
                    f"objective.retrieval.target label: {without:,} of {len(sizes):,} training "
                    "entries do not say which of their images the question is about, as "
                    "conversations never do; leave them out, or take target teacher"
                )

    @property
    def of_teacher(self) -> dict[str, bool]:
        """The chosen terms that compare the student with a teacher, by name, and whether they
        compare queries or keys as vectors."""
        chosen = self.chosen.items()
        return {name: args.compares_heads for name, args in chosen if args.has_teacher}


def wanted_of_teacher(args: ObjectiveArgs, models: ModelPair) -> Wanted:
    """What the terms may ask of the teacher in a whole run; they are built without memory.

    Raises:
        UserError: as the terms' ``build``.
    """
    with torch.device("meta"):
        return Objective(args, models).ever_of_teacher


class Objective(nn.Module):
    """The chosen terms, with whatever they learn: parameters and buffers of ``terms.NAME``."""

    def __init__(self, args: ObjectiveArgs, models: ModelPair):
        """Raises:
        UserError: as the terms' ``build``.
        """
        super().__init__()
        self.weights = {name: chosen.weight for name, chosen in args.chosen.items()}
        self._needs_images = {name for name, chosen in args.chosen.items() if chosen.needs_images}
        self._terms: dict[str, Term] = {
            name: chosen.build(models) for name, chosen in args.chosen.items()
        }
        self.terms = nn.ModuleDict(self._terms)

    @property
    def of_student(self) -> Wanted:
        """What it asks of the student. The logits always: sharded training hooks the model's
        output, and a loss without it would never reach the parameters."""
        return reduce(or_, (term.of_student for term in self), Wanted(logits=True))

    @property
    def of_teacher(self) -> Wanted:
        """What it asks of the teacher; nothing for supervised fine-tuning."""
        return reduce(or_, (term.of_teacher for term in self), Wanted())

    @property
    def ever_of_teacher(self) -> Wanted:
        """What it may ask of the teacher in a whole run."""
        return reduce(or_, (term.ever_of_teacher for term in self), Wanted())

    def __iter__(self) -> Iterator[Term]:
        return iter(self._terms.values())

    def forward(
        self, student: Signals, teacher: Signals | None, inputs: ModelInputs
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and every term unweighted, by name.

        A term is given what it asked for, so that no other term changes it. The sum is tied to
        the logits even where no term uses them.
        """
        assert student.logits_NV is not None
        # In autocast products would be rounded to the models' 16 bits.
        with torch.autocast(student.logits_NV.device.type, enabled=False):
            terms = {
                name: term(
                    student.only(term.of_student), teacher and teacher.only(term.of_teacher), inputs
                )
                for name, term in self._terms.items()
            }
        anchor = 0.0 * student.logits_NV.float().sum()
        return sum((self.weights[name] * term for name, term in terms.items()), anchor), terms

    @torch.no_grad()
    def calibrate(
        self, student: Ask, teacher: Ask, data: HaystackDataModule, device: torch.device
    ) -> None:
        """Calibrates every term that asks for it on the first training entries, those with images
        where it needs them; once a run.

        Terms whose state comes from a checkpoint stay as they are.
        """
        for name, term in self._terms.items():
            if not term.calibration_entries or term.fitted:
                continue
            entries = data.train_entries
            if name in self._needs_images:
                entries = entries.select([at for at, size in enumerate(entries["size"]) if size])
            count = min(term.calibration_entries, len(entries))
            if count < term.calibration_entries and rank_zero_only.rank == 0:
                log.info(
                    "objective.%s: calibrated on all %d training entries; %d were asked for",
                    *(name, count, term.calibration_entries),
                )
            batches = [x.inputs for x in data.probe(entries.select(range(count)), device)]
            found = term.calibrate(CalibrationData(batches, student, teacher))
            term.fitted.fill_(True)
            if found and rank_zero_only.rank == 0:
                log.info("%s", found)

    def advance(self, step: int, steps: int) -> None:
        """Tells the terms how many of training's optimizer steps are done."""
        for term in self:
            term.step, term.progress = step, step / steps

    def restored(self) -> None:
        """Called before the first step, after a checkpoint has been read."""
        for term in self:
            term.restored()

    def matrices(self) -> dict[str, Matrix]:
        """What the terms draw, by short name; all ranks call it together."""
        return {name: matrix for term in self for name, matrix in term.matrices().items()}
