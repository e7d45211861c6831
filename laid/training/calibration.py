"""Runs both models on training batches before the first step, for the terms that ask for it."""

import logging
from typing import TYPE_CHECKING

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only

from laid.losses.term import CalibrationData
from laid.signals.teacher_source import TeacherSource
from laid.training.objective import Objective
from laid.vlm.vision_language_model import VLM

if TYPE_CHECKING:
    from laid.data.datamodule import HaystackDataModule

log = logging.getLogger(__name__)


@torch.no_grad()
def calibrate(
    objective: Objective,
    student: VLM,
    teacher: TeacherSource,
    data: "HaystackDataModule",
    device: torch.device,
) -> None:
    """Calibrates every term on the first training entries; once a run.

    Terms whose state comes from a checkpoint stay as they are.
    """
    for term in objective:
        if not term.calibration_entries or term.fitted:
            continue
        count = min(term.calibration_entries, len(data.train_entries))
        batches = [b.inputs for b in data.probe(data.train_entries.select(range(count)), device)]
        found = term.calibrate(CalibrationData(batches, student.signals, teacher.signals))
        term.fitted.fill_(True)
        if found and rank_zero_only.rank == 0:
            log.info("%s", found)
