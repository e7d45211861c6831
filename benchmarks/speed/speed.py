"""Speed and memory of laid beside other ways, on the CPU.

    python benchmarks/speed/speed.py [step trl growth input epoch] [--images 5] [--rounds 5] …

step: a training step against a plain loop (eager attention, all hidden states and attentions,
logits of all positions), and against itself with compiled layers. trl: against TRL's trainers on
the same pair and haystack, KL and SFT alone (`pip install -e '.[bench]'`). growth: a training step
and a test entry by number of images. input: images a second. epoch: training from both caches
against plain SFT with cached vision, and against the same with the teacher beside it. Each prints
a table and writes runs/bench/NAME.json. What is compared is run in turn, each side in a process of
its own.
"""

import argparse
import tempfile
from pathlib import Path

import fixture
from epochs import epochs
from image_input import image_input
from side_by_side import Report, compare, linear, run

from laid.common.tables import Table


def step(folder: Path, args: argparse.Namespace) -> Report:
    """laid, a plain loop, and laid with compiled layers."""
    settings = {"folder": str(folder), "images": args.images, "steps": args.steps}
    title = f"A training step on {args.images} images of 640 x 480"
    return compare("step", title, args.sides, args.rounds, settings)


def trl(folder: Path, args: argparse.Namespace) -> Report:
    """laid and TRL's trainers."""
    settings = {"folder": str(folder), "images": args.images, "steps": args.steps}
    title = f"A training step of KL and SFT on {args.images} images of 640 x 480"
    sides = ["laid", "DistillationTrainer", "GOLDTrainer"]
    return compare("trl", title, sides, args.rounds, settings)


def growth(folder: Path, args: argparse.Namespace) -> Report:
    """Time and memory by number of images."""
    rows, content = [], {}
    for side, what in (("laid", "training step"), ("answer", "test entry")):
        settings = {"folder": str(folder), "steps": 1}
        found = {n: run(side, {**settings, "images": n}) for n in args.sizes}
        whole = {n: one for n, one in found.items() if "seconds" in one}
        for n, one in whole.items():
            peak = f"{one['peak_gib']:.2f}"
            rows.append([what, str(n), str(one["tokens"]), f"{one['seconds'][0]:.2f}", peak])
        tokens = [one["tokens"] for one in whole.values()]
        slope, intercept, off = linear(tokens, [one["peak_gib"] for one in whole.values()])
        fit = (
            f"{slope * 1000:.3f} GiB a thousand tokens + {intercept:.2f}; off by {off:.1%} at most"
        )
        rows.append([what, "", "", "memory:", fit])
        content[what] = {"found": found, "memory": [slope, intercept, off]}
    header = ["what", "images", "tokens", "s", "peak GiB"]
    return Report("growth", Table("growth", "By number of images", header, rows), content)


def main() -> None:
    """Runs what is asked for, in order."""
    benches = {
        "step": step, "trl": trl, "growth": growth,
        "input": image_input, "epoch": epochs,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help=f"of {', '.join(benches)}; default: all")
    parser.add_argument("--images", type=int, default=5, help="of step and trl")
    parser.add_argument("--rounds", type=int, default=5, help="of step, trl and epoch")
    parser.add_argument("--steps", type=int, default=3, help="measured in a round")
    parser.add_argument("--sides", nargs="+", default=["laid", "naive", "compiled"], help="of step")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 5, 10, 20, 50, 100, 150])
    parser.add_argument("--entries", type=int, default=400, help="of epoch")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    args = parser.parse_args()
    if unknown := [name for name in args.what if name not in benches]:
        parser.error(f"{', '.join(unknown)}: expected some of {', '.join(benches)}")
    with tempfile.TemporaryDirectory() as folder:
        fixture.write(Path(folder), max(args.images, *args.sizes, 100))
        for name in args.what or benches:
            benches[name](Path(folder), args).write(args.out)


if __name__ == "__main__":
    main()
