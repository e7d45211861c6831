"""Speed and memory of laid beside other ways, on the CPU.

    python benchmarks/speed/speed.py [step trl packed growth input epoch] [--rounds 5] …

step: a training step against a plain loop (eager attention, all hidden states and attentions,
logits of all positions), and against itself with compiled layers. trl: against TRL's trainers on
the same pair and haystack, KL and SFT alone (`pip install -e '.[bench]'`). packed: a step of
several haystacks, one at a time, padded, and in one row. growth: a training step and a test entry
by number of images. input: reading images, by workers. epoch: training from both caches against
plain SFT with cached vision, and against the same with the teacher beside it.

Each prints a table and writes OUT/NAME.json. What is compared is run in turn, each side in a
process of its own. A benchmark that was stopped goes on where it was, by OUT/NAME.runs.json.
"""

import argparse
import tempfile
from pathlib import Path

import fixture
from cached_side import CACHED, make_cache
from epochs import epochs
from image_input import HAYSTACK, WORKERS
from side_by_side import Measured, Report, Runs, compare, in_turn, linear, median, run

from laid.common.tables import Table

SIZE = f"{fixture.WIDTH} x {fixture.HEIGHT}"


def step(folder: Path, args: argparse.Namespace) -> Report:
    """laid, a plain loop, and laid with compiled layers."""
    settings = {"haystacks": [args.images], "steps": args.steps}
    title = f"A training step on {args.images} images of {SIZE}"
    return compare("step", title, args.sides, args.rounds, settings, folder, args.out)


def trl(folder: Path, args: argparse.Namespace) -> Report:
    """laid, with and without caches, and TRL's trainers."""
    if CACHED in args.trl_sides:
        make_cache(folder, args.images, args.steps)
    settings = {"haystacks": [args.images], "steps": args.steps}
    title = f"A training step of KL and SFT on {args.images} images of {SIZE}"
    return compare("trl", title, args.trl_sides, args.rounds, settings, folder, args.out)


def packed(folder: Path, args: argparse.Namespace) -> Report:
    """Micro-batches of one haystack, of all padded to the longest, and of all in one row."""
    settings = {"haystacks": args.haystacks, "steps": args.steps}
    sizes = ", ".join(map(str, args.haystacks))
    title = f"A step of {len(args.haystacks)} haystacks of {sizes} images of {SIZE}"
    sides = ["packed", "single", "padded"]
    return compare("packed", title, sides, args.rounds, settings, folder, args.out)


def read(folder: Path, args: argparse.Namespace) -> Report:
    """Images from files to patches."""
    if args.photographs is not None:
        fixture.take(folder, args.photographs, HAYSTACK)
    of = SIZE if args.photographs is None else args.photographs.name
    title = f"{HAYSTACK} images of {of}, from files to patches, wall-clock time"
    settings = {"haystacks": [HAYSTACK], "steps": 1}
    return compare("input", title, [*WORKERS], args.rounds, settings, folder, args.out)


def growth(folder: Path, args: argparse.Namespace) -> Report:
    """Time and memory by number of images."""
    kinds = {"laid": "training step", "answer": "test entry"}
    sides = {f"{what}, {n} images": (side, n) for n in args.sizes for side, what in kinds.items()}

    def measure(name: str) -> Measured:
        side, images = sides[name]
        return run(side, {"haystacks": [images], "steps": 1}, folder)

    runs = Runs(args.out, "growth", {"steps": 1})
    found = in_turn([*sides], args.growth_rounds, runs, measure)
    runs.finish()
    rows, content = [], {}
    for what in kinds.values():
        each = {n: found[f"{what}, {n} images"] for n in args.sizes}
        whole = {n: own for n, own in each.items() if not any("failed" in one for one in own)}
        for n, own in whole.items():
            row = [what, str(n), str(own[0]["tokens"]), str(len(own))]
            row.append(median("{:.2f}", [one["seconds"][0] for one in own]))
            rows.append([*row, median("{:.2f}", [one["peak_gib"] for one in own])])
        tokens = [own[0]["tokens"] for own in whole.values()]
        slope, intercept, off = linear(tokens, [own[0]["peak_gib"] for own in whole.values()])
        fit = (
            f"{slope * 1000:.3f} GiB a thousand tokens + {intercept:.2f}; off by {off:.1%} of the "
            "largest at most"
        )
        rows.append([what, "", "", "", "memory:", fit])
        content[what] = {"found": each, "memory": [slope, intercept, off]}
    header = ["what", "images", "tokens", "n", "s", "peak GiB"]
    return Report("growth", Table("growth", "By number of images", header, rows), content)


def main() -> None:
    """Runs what is asked for, in order."""
    benches = {
        "step": step, "trl": trl, "packed": packed,
        "growth": growth, "input": read, "epoch": epochs,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help=f"of {', '.join(benches)}; default: all")
    parser.add_argument("--images", type=int, default=5, help="of step and trl")
    parser.add_argument("--rounds", type=int, default=5, help="of all but growth")
    parser.add_argument("--steps", type=int, default=3, help="measured in a round")
    parser.add_argument("--sides", nargs="+", default=["laid", "naive", "compiled"], help="of step")
    parser.add_argument(
        "--trl_sides", nargs="+", default=["laid", "DistillationTrainer", "GOLDTrainer", CACHED]
    )
    parser.add_argument(
        "--haystacks", type=int, nargs="+", default=[1, 2, 2, 3, 4, 5, 5, 6], help="of packed"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 5, 10, 20, 50, 100, 150])
    parser.add_argument("--growth_rounds", type=int, default=1)
    parser.add_argument(
        "--photographs", type=Path, help="a folder of JPEG files, for input in place of drawn ones"
    )
    parser.add_argument("--entries", type=int, default=400, help="of epoch")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    args = parser.parse_args()
    if unknown := [name for name in args.what if name not in benches]:
        parser.error(f"{', '.join(unknown)}: expected some of {', '.join(benches)}")
    with tempfile.TemporaryDirectory() as folder:
        fixture.write(Path(folder), max(args.images, sum(args.haystacks), *args.sizes, HAYSTACK))
        for name in args.what or benches:
            benches[name](Path(folder), args).write(args.out)


if __name__ == "__main__":
    main()
