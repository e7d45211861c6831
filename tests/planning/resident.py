"""Growth of a process in a real step beside what is planned for it, in bytes, as JSON.

    python tests/planning/resident.py FOLDER

Run by ``test_simulated_step.py`` in a process of its own, whose peak is that of the step alone.
"""

import gc
import json
import sys
from pathlib import Path

import torch

from laid.miniature.packaged_models import corpus
from laid.miniature.tiny_models import tiny_config, tiny_processor, write_tiny
from laid.planning.plan_tables import highest
from laid.planning.simulated_step import PlannedModule, Setting, simulate_training
from laid.vlm.model_loading import ModelArgs


def module(root: Path) -> PlannedModule:
    student, teacher = (
        ModelArgs(str(root / name), random_weights=True) for name in ("student", "teacher")
    )
    return PlannedModule(student, teacher)


def of_process(key: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key))


def main(root: Path) -> None:
    torch.set_num_threads(1)
    processor = tiny_processor(corpus())
    for name, layers in (("student", 4), ("teacher", 5)):
        config = tiny_config(processor.tokenizer, layers=layers, heads=8, kv_heads=2, head_dim=64)
        write_tiny(root / name, config, processor)
    small = Setting(devices=None, precision="32-true", images=1, grid=(1, 8, 8), clip=1.0)
    large = Setting(devices=None, precision="32-true", images=8, grid=(1, 32, 32), clip=1.0)
    simulate_training(module(root), small, real=True)  # libraries allocate their own memory once
    gc.collect()  # models are in cycles: they would be freed in the midst of what is measured
    before = of_process("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    simulate_training(module(root), large, real=True)
    grown = of_process("VmHWM") - before
    planned = highest(simulate_training(module(root), large)).total()
    print(json.dumps({"planned": planned, "grown": grown}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
