"""Training steps of a student and a teacher on a device."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laid.data.prompt import Batch
from laid.losses.term import CalibrationData, ModelPair
from laid.signals.model_inputs import ModelInputs
from laid.training.objective import Objective, ObjectiveArgs
from laid.vlm.lora import LoraArgs
from laid.vlm.model_loading import ModelArgs
from laid.vlm.online_teacher import OnlineTeacher
from laid.vlm.rope_gain import RopeGainArgs
from laid.vlm.vision_language_model import VLM


@dataclass(frozen=True)
class Run:
    """What is trained, and how.

    Attributes:
        packed: whether the haystacks of a batch are in one row.
        kept: whether the features of images are computed beforehand.
    """

    objective: ObjectiveArgs
    lora: LoraArgs | None = None
    gain: RopeGainArgs | None = None
    packed: bool = False
    kept: bool = False
    freeze_vision: bool = True


@dataclass
class Found:
    """Losses by step, gradients by parameter after the last, and what the host waited for in it."""

    losses: list[float]
    gradients: dict[str, Tensor]
    waited: list[str]


def steps(
    device: Any, where: str, run: Run, models: tuple[Path, Path], batches: Sequence[ModelInputs]
) -> Found:
    """A step of each batch, without an optimizer: gradients are added up.

    Args:
        device: ``OtherDevice``, or None on the CPU.
        where: other or cpu.
    """
    to = torch.device(where)
    torch.manual_seed(0)
    args = ModelArgs(str(models[0]), freeze_vision=run.freeze_vision)
    student = VLM.load(args, run.lora, gain=run.gain).train().to(to)
    teacher = OnlineTeacher(VLM.load(ModelArgs(str(models[1]))))
    teacher.to(to)
    pair = ModelPair(student.shape, teacher.vlm.shape, 700, student.rotate, teacher.rotate)
    objective = Objective(run.objective, pair).to(to)
    found = Found([], {}, [])
    there = [
        Batch(_made(one, run, (student, teacher.vlm)), (), ()).to(to).inputs for one in batches
    ]
    for term in objective:
        if term.calibration_entries:
            with torch.no_grad():
                term.calibrate(CalibrationData(there, student.signals, teacher.signals))
    for inputs in there:
        if device is not None:
            device.waited.clear()
        theirs = teacher.signals(inputs, objective.of_teacher)
        loss, _ = objective(student.signals(inputs, objective.of_student), theirs, inputs)
        loss.backward()
        if device is not None:
            found.waited = list(device.waited)
        assert loss.device.type == to.type
        found.losses.append(loss.item())
    named = [*student.named_parameters(), *objective.named_parameters()]
    found.gradients = {name: p.grad.cpu() for name, p in named if p.grad is not None}
    return found


def _made(inputs: ModelInputs, run: Run, models: Sequence[VLM]) -> ModelInputs:
    if run.kept:
        for vlm in models:
            vlm.learn(inputs.image_names, inputs.pixel_values_PC, inputs.image_grid_thw_I3, 1.0)
        inputs = replace(inputs, pixel_values_PC=torch.empty(0))
    if run.packed:
        inputs = replace(inputs, lengths=inputs.attention_mask_BL.sum(-1).tolist())
    return inputs


def assert_close(found: Found, expected: Found) -> None:
    """To rounding: attention adds up in another order on the device."""
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-4, atol=1e-5)
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        torch.testing.assert_close(found.gradients[name], gradient, rtol=1e-3, atol=1e-4, msg=name)
