"""Speed, MFU and peak memory of training steps and of a long test, on the device at hand.

    python benchmarks/gpu.py --configs FOLDER [--out runs/gpu] [--images 2 10 20] [--steps 5]
    python benchmarks/gpu.py --size tiny    # the same on the tiny models, also without a GPU

FOLDER has 3b/config.json and 7b/config.json of Qwen2.5-VL; weights are random, so nothing is
downloaded. Measured are a training step of the 7B student alone (cross-entropy), one of the 3B
student with a 7B teacher (Eq. 8), each on one haystack of 640 x 480 images, and a test prompt of
150 images; with sdpa and, if it is installed, with flash attention; and beside each the memory that
``laid plan`` predicts. Weights are in bfloat16, so that they, their gradients and AdamW's moments
fit on one card. Writes gpu.json and gpu.md.
"""

import argparse
import copy
import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device

from laid.common.atomic_files import atomic_write_text
from laid.common.tables import Table, markdown
from laid.losses.alignment import AlignmentArgs
from laid.losses.divergence import DivergenceArgs
from laid.planning.plan_options import GPUS
from laid.planning.plan_tables import GIB, highest
from laid.planning.planned_inputs import ANSWER, haystack_inputs, tokens_of
from laid.planning.simulated_step import (
    STUDENT,
    PlannedModule,
    PlannedStrategy,
    Setting,
    prepare_training,
    simulate_test,
    simulate_training,
    train_once,
    watch_teacher,
)
from laid.planning.workload import Cost
from laid.training.objective import ObjectiveArgs
from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import ModelArgs, flash_attention_installed, load_config
from laid.vlm.vision_language_model import VLM

ATTENTION = ("sdpa", "flash_attention_2")
COLUMNS = {
    "case": "what",
    "attention": "attention",
    "images": "images",
    "tokens": "tokens",
    "seconds": "s",
    "tokens_a_second": "tokens/s",
    "tflops": "TFLOP/s",
    "mfu": "MFU",
    "peak_gib": "peak GiB",
    "planned_gib": "planned GiB",
    "note": "",
}


class Bench:
    """The device, and one model or pair of models at a time on it."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda" if cuda else "cpu")
        self.card = torch.cuda.get_device_name() if cuda else "CPU"
        known = [peak for name, (peak, _) in GPUS.items() if name in self.card.lower()]
        self.peak_tflops = args.peak_tflops or (known[0] if known else None)
        self.tiny = args.size == "tiny"

    def model(self, size: str, attention: str, role: str) -> ModelArgs:
        """A model with random weights."""
        return ModelArgs(
            path=f"tiny/{role}" if self.tiny else str(Path(self.args.configs) / size),
            dtype="bfloat16",
            attn_implementation=attention,  # type: ignore[arg-type]
            activation_checkpointing=role == "student",
            random_weights=True,
        )

    def setting(self, student: ModelArgs, images: int) -> Setting:
        """One haystack, on one device."""
        width, height = (112, 84) if self.tiny else (640, 480)
        grid = family_of(load_config(student)).planned_grid(width, height, None, None)
        return Setting(None, "32-true", images, grid, clip=1.0)

    def synchronise(self) -> float:
        """The time in seconds, after the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def begin(self) -> None:
        """Frees memory and resets its peak."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        """Peak memory of tensors since ``begin``; None on a CPU."""
        on_card = self.device.type == "cuda"
        return torch.cuda.max_memory_allocated() / GIB if on_card else None

    def training(self, case: str, student: ModelArgs, teacher: ModelArgs | None) -> list[dict]:
        """One row per haystack size."""
        objective = ObjectiveArgs()
        if teacher is None:
            objective = ObjectiveArgs(laid=AlignmentArgs(weight=0.0), kl=DivergenceArgs(weight=0.0))
        module = PlannedModule(student, teacher, objective=objective)
        unbuilt = copy.deepcopy(module)
        strategy = PlannedStrategy(None, "32-true", weights=True)
        self.begin()
        setting = self.setting(student, self.args.images[0])
        optimizer = prepare_training(module, strategy, setting, self.device)
        clock = _Clock(self.synchronise)
        watch_teacher(module, clock.enter)

        def step(setting: Setting, inputs: Any) -> float:
            clock.spent = {}
            begun = clock.enter(STUDENT)
            train_once(module, optimizer, strategy, setting, inputs, True, clock.enter)
            return clock.enter("over") - begun

        rows = []
        for images in self.args.images:
            setting = self.setting(student, images)
            config = load_config(student)
            inputs = haystack_inputs(config, images, setting.grid, 1, with_answer=True)
            inputs.pixel_values_PC.normal_()
            inputs = move_data_to_device(inputs, self.device)
            row = _row(case, student, images, inputs.tokens)
            row |= self.planned(unbuilt, setting, inputs.tokens)
            try:
                self.begin()
                for _ in range(self.args.warmup):
                    step(setting, inputs)
                times = [(step(setting, inputs), clock.spent) for _ in range(self.args.steps)]
            except torch.OutOfMemoryError:
                rows.append({**row, "note": "out of memory"})
                clock.enter("over")
                optimizer.zero_grad()
                continue
            seconds = statistics.median(whole for whole, _ in times)
            phases = {p: statistics.median(of[p] for _, of in times) for p in clock.spent}
            rows.append(self.timed(row, seconds) | {"phases": phases, "n": len(times)})
        return rows

    def test(self, student: ModelArgs, images: int) -> list[dict]:
        """The row of a test prompt and two answer tokens."""
        setting = self.setting(student, images)
        config = load_config(student)
        row = _row("test", student, images, tokens_of(config, images, setting.grid) - ANSWER)
        planned = simulate_test(PlannedModule(_by_sdpa(student)), setting)
        row["planned_gib"] = highest(planned).total() / GIB
        row["flops"] = sum(planned.flops.values())
        self.begin()
        vlm = VLM.load(student).to(self.device)
        inputs = haystack_inputs(config, images, setting.grid, 1, with_answer=False)
        inputs.pixel_values_PC.normal_()
        inputs = move_data_to_device(inputs, self.device)
        try:
            self.begin()
            for _ in range(min(self.args.warmup, 1)):
                vlm.answer(inputs, 2)
            times = []
            for _ in range(self.args.steps):
                begun = self.synchronise()
                vlm.answer(inputs, 2)
                times.append(self.synchronise() - begun)
        except torch.OutOfMemoryError:
            return [{**row, "note": "out of memory"}]
        return [self.timed(row, statistics.median(times)) | {"n": len(times)}]

    def planned(self, unbuilt: PlannedModule, setting: Setting, tokens: int) -> dict[str, float]:
        """A step's peak memory and FLOPs, less recomputation, as ``laid plan`` predicts them."""
        module = copy.deepcopy(unbuilt)
        module.student_args = _by_sdpa(module.student_args)
        if module.teacher_args is not None:
            module.teacher_args = _by_sdpa(module.teacher_args)
        tracker = simulate_training(module, setting)
        cost = Cost.of(tracker.flops, [setting.images], lambda _: tokens)
        return {"planned_gib": highest(tracker).total() / GIB, "flops": cost.at(setting.images)}

    def timed(self, row: dict, seconds: float) -> dict:
        """A row with its speed and peak memory."""
        speed = row["flops"] / seconds / 1e12
        return {
            **row,
            "seconds": seconds,
            "tokens_a_second": row["tokens"] / seconds,
            "tflops": speed,
            "mfu": speed / self.peak_tflops if self.peak_tflops else None,
            "peak_gib": self.peak_gib(),
        }


class _Clock:
    """Seconds by phase."""

    def __init__(self, now: Callable[[], float]):
        self.now = now
        self.spent: dict[str, float] = {}
        self.phase, self.since = "over", 0.0

    def enter(self, phase: str) -> float:
        now = self.now()
        if self.phase != "over":
            self.spent[self.phase] = self.spent.get(self.phase, 0.0) + now - self.since
        self.phase, self.since = phase, now
        return now


def _row(case: str, student: ModelArgs, images: int, tokens: int) -> dict[str, Any]:
    attention = student.attn_implementation
    return {"case": case, "attention": attention, "images": images, "tokens": tokens}


def _by_sdpa(args: ModelArgs) -> ModelArgs:
    return replace(args, attn_implementation="sdpa")


def unavailable(attention: str) -> str | None:
    """Why an attention implementation can't be measured here; None if it can."""
    if attention == "flash_attention_2" and not flash_attention_installed():
        return "neither flash-attn nor kernels is installed, or there is no GPU"
    return None


def table(card: str, rows: list[dict]) -> str:
    """Rows in Markdown."""

    def cell(value: Any) -> str:
        if value is None:
            return "–"
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    cells = [[cell(row.get(column, "")) for column in COLUMNS] for row in rows]
    return markdown(Table("gpu", f"Device: {card}", list(COLUMNS.values()), cells))


def main() -> None:
    """Measures case by case, and writes all rows after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--configs", help="folder with 3b/config.json and 7b/config.json")
    parser.add_argument("--images", type=int, nargs="+", default=[2, 10, 20])
    parser.add_argument("--test_images", type=int, default=150)
    parser.add_argument("--steps", type=int, default=5, help="measured, for the median")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--peak_tflops", type=float, help="the card's bfloat16 peak, for the MFU")
    parser.add_argument("--out", default="runs/gpu")
    args = parser.parse_args()
    if args.size == "full" and not args.configs:
        parser.error("--configs FOLDER, or --size tiny")
    bench, rows = Bench(args), []

    def write() -> None:
        content = {"device": bench.card, "torch": torch.__version__, "size": args.size}
        content |= {"peak_tflops": bench.peak_tflops, "rows": rows}
        atomic_write_text(Path(args.out) / "gpu.json", json.dumps(content, indent=1) + "\n")
        atomic_write_text(Path(args.out) / "gpu.md", table(bench.card, rows))

    for attention in ATTENTION:
        if reason := unavailable(attention):
            rows.append({"case": "all", "attention": attention, "note": f"skipped: {reason}"})
            write()
            continue
        large = bench.model("7b", attention, "student")
        small = bench.model("3b", attention, "student")
        teacher = bench.model("7b", attention, "teacher")
        both = "3B student, 7B teacher"
        cases: dict[str, Callable[[], list[dict]]] = {
            "7B student": partial(bench.training, "7B student", large, None),
            both: partial(bench.training, both, small, teacher),
            "test": partial(bench.test, large, args.test_images),
        }
        for name, case in cases.items():
            try:
                rows += case()
            except torch.OutOfMemoryError:
                rows.append({"case": name, "attention": attention, "note": "out of memory"})
            write()
    print(table(bench.card, rows), end="")


if __name__ == "__main__":
    main()
