"""The 7B teacher's cache and one LoRA step of the 3B student, at their real size on the CPU.

    python benchmarks/speed/true_size.py --teacher FOLDER --student FOLDER [--images 2]

The folders have config.json, preprocessor_config.json and the tokenizer of Qwen2.5-VL-7B and 3B and
need no weights: these are drawn, in bfloat16. Needs about 20 GiB of memory and an hour or more.
`laid cache` has the teacher alone in memory, `laid fit` the student alone. Prints, and writes to
runs/bench/true_size.json, the peak memory of each process beside `laid plan`'s estimate.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from side_by_side import Report

from laid.common.tables import Table

ROOT = Path(__file__).parents[2]


def laid(*words: object) -> tuple[str, float]:
    """Runs a command; returns what it printed, and its peak memory in GiB."""
    code = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]);"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss;"
        "print('peak', peak); sys.exit(done.returncode)"
    )
    command = [sys.executable, "-c", code, sys.executable, "-m", "laid", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    unit = 2**10 if sys.platform == "linux" else 1
    return done.stdout, int(done.stdout.split()[-1]) * unit / 2**30


def main() -> None:
    """Cache, fit, plan."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--coco_root", default="minicoco")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    args = parser.parse_args()
    cache = args.out / "true-size-cache"
    settings = [
        "--config", ROOT / "configs" / "3b-24gb.yaml",
        "--model.student.path", args.student, "--model.student.random_weights", "true",
        "--model.teacher.path", args.teacher, "--model.teacher.random_weights", "true",
        "--model.teacher_source", f"cache:{cache}", "--data.coco_root", args.coco_root,
        "--data.train.entries", 2, "--data.train.min_size", args.images,
        "--data.train.max_size", args.images, "--data.global_batch_size", 1, "--data.workers", 0,
        "--trainer.accelerator", "cpu", "--trainer.max_steps", 1, "--trainer.max_epochs", 1,
    ]  # fmt: skip
    only_fit = ["--trainer.limit_val_batches", 0, "--head_flow.enabled", "false"]
    _, of_cache = laid("cache", *settings)
    _, of_fit = laid("fit", *settings, *only_fit)
    planned, _ = laid(
        "plan", *settings, "--test_images", 0, "--image_width", 56, "--image_height", 56
    )
    estimate = re.search(r"training (?:fits|does not fit): ([\d.]+) GiB", planned)
    rows = [
        ["laid cache, 7B", f"{of_cache:.1f}", "–"],
        ["laid fit, 3B with LoRA", f"{of_fit:.1f}", estimate[1] if estimate else "–"],
    ]
    table = Table("true_size", "At true size", ["command", "peak GiB", "planned GiB"], rows)
    content = {"rows": rows}
    Report("true_size", table, content).write(args.out)


if __name__ == "__main__":
    main()
