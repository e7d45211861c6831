"""One side of a comparison, in a process of its own and one thread: prints its seconds of processor
time and its peak memory as JSON.

python benchmarks/speed/sides.py SIDE FOLDER '{"haystacks": [5], "steps": 3}'
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fixture
import torch
import torch.nn.functional as F
from cached_side import CACHED, cached_steps
from image_input import WORKERS, seconds_of_reading

from laid.losses.alignment import AlignmentArgs
from laid.losses.cross_entropy import CrossEntropyArgs
from laid.losses.divergence import DivergenceArgs
from laid.losses.retrieval import RetrievalArgs
from laid.planning.simulated_step import (
    PlannedModule,
    PlannedStrategy,
    Setting,
    accumulate,
    prepare_training,
    train_once,
)
from laid.training.objective import ObjectiveArgs
from laid.vlm.vision_language_model import VLM

Haystacks = Sequence[int]
"""Images of each haystack of a step."""
Step = Callable[[], Any]
OBJECTIVE = ObjectiveArgs(
    laid=AlignmentArgs(weight=0.0),
    retrieval=RetrievalArgs(weight=0.0),
    kl=DivergenceArgs(weight=0.3, temperature=2.0),
    sft=CrossEntropyArgs(weight=0.7),
)
"""KL and SFT, which all sides have."""


def laid_step(folder: Path, haystacks: Haystacks, how: str = "", **options: Any) -> Step:
    """The step of ``laid fit``: module, objective, clipping and optimizer are its own.

    Args:
        how: single: a micro-batch for each haystack; packed: one for all, in one row; else one
            for all, padded to the longest.
    """
    student = fixture.model(folder, "student", **options)
    module = PlannedModule(student, fixture.model(folder, "teacher"), objective=OBJECTIVE)
    strategy = PlannedStrategy(None, "32-true", weights=True)
    family = VLM.load(student, weights=False).family
    grid = family.planned_grid(fixture.WIDTH, fixture.HEIGHT, None, None)
    setting = Setting(None, "32-true", max(haystacks), grid, clip=1.0)
    optimizer = prepare_training(module, strategy, setting)
    data, order = fixture.dataset(folder, haystacks), range(len(haystacks))
    batches = [[at] for at in order] if how == "single" else [list(order)]

    def step() -> None:
        for number, batch in enumerate(batches, 1):
            inputs = fixture.read(data, batch, packed=how == "packed")
            given = inputs, number == 1, lambda _: None
            if number < len(batches):
                accumulate(module, optimizer, strategy, *given)
            else:
                train_once(module, optimizer, strategy, setting, *given)

    return step


def naive_step(folder: Path, haystacks: Haystacks) -> Step:
    """A plain loop: eager attention, all hidden states and attentions, logits of all positions."""
    models = {}
    for role in fixture.LAYERS:
        vlm = VLM.load(fixture.model(folder, role, attn_implementation="eager"))
        models[role] = vlm.hf.requires_grad_(role == "student").train(role == "student")
    teacher, student = models["teacher"], models["student"]
    student.model.visual.requires_grad_(False)
    trained = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    data = fixture.dataset(folder, haystacks)

    def step() -> None:
        inputs = fixture.read(data)
        given = {
            "input_ids": inputs.input_ids_BL,
            "attention_mask": inputs.attention_mask_BL,
            "position_ids": inputs.position_ids_3BL,
            "mm_token_type_ids": inputs.mm_token_type_ids_BL,
            "pixel_values": inputs.pixel_values_PC,
            "image_grid_thw": inputs.image_grid_thw_I3,
            "output_hidden_states": True,
            "output_attentions": True,
        }
        with torch.no_grad():
            theirs = teacher(**given)
        ours = student(**given)
        labels_N = inputs.labels_BL[:, 1:].flatten()
        answer_N = labels_N >= 0
        of_student, of_teacher = (out.logits[:, :-1].flatten(0, 1) / 2.0 for out in (ours, theirs))
        kl = F.kl_div(
            of_student.log_softmax(-1),
            of_teacher.log_softmax(-1),
            log_target=True,
            reduction="none",
        ).sum(-1)
        sft = F.cross_entropy(ours.logits[:, :-1].flatten(0, 1), labels_N)
        loss = 0.3 * 4.0 * kl[answer_N].mean() + 0.7 * sft
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    return step


def answer(folder: Path, haystacks: Haystacks) -> Step:
    """A test entry: prompt and two answer tokens of the student alone."""
    vlm = VLM.load(fixture.model(folder, "student"))
    data = fixture.dataset(folder, haystacks, with_answer=False)
    return lambda: vlm.answer(fixture.read(data), 2)


def measure(side: str, folder: Path, haystacks: Haystacks, steps: int) -> list[float]:
    """Seconds of the processor in each of some steps after the first: other jobs do not count."""
    if side in WORKERS:
        return seconds_of_reading(folder, side)
    if side == CACHED:
        return cached_steps(folder, steps)
    if side not in SIDES:
        from trl_sides import trl_trainer  # an extra

        return trl_trainer(folder, haystacks[0], side)(steps)
    step = SIDES[side](folder, haystacks)
    step()
    seconds = []
    for _ in range(steps):
        begun = time.process_time()
        step()
        seconds.append(time.process_time() - begun)
    return seconds


SIDES: dict[str, Callable[[Path, Haystacks], Step]] = {
    "laid": laid_step,
    "compiled": partial(laid_step, compile=True),
    "single": partial(laid_step, how="single"),
    "padded": partial(laid_step, how="padded"),
    "packed": partial(laid_step, how="packed"),
    "naive": naive_step,
    "answer": answer,
}


def main() -> None:
    """Warms up and measures."""
    side, folder, given = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    fixture.one_thread()
    seconds = measure(side, folder, given["haystacks"], given["steps"])
    unit = 2**10 if sys.platform == "linux" else 1
    whose = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    peak = max(resource.getrusage(who).ru_maxrss for who in whose) * unit
    data = fixture.dataset(folder, given["haystacks"])
    tokens = sum(sample.inputs.tokens for sample in map(data.__getitem__, range(len(data))))
    print(json.dumps({"seconds": seconds, "peak_gib": peak / 2**30, "tokens": tokens}))


if __name__ == "__main__":
    main()
