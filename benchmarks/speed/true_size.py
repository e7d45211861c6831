"""The 7B teacher's cache and one LoRA step of the 3B student, at their real size on the CPU.

    python benchmarks/speed/true_size.py --teacher FOLDER --student FOLDER [--tokenizer FOLDER]

The folders have config.json and preprocessor_config.json of Qwen2.5-VL-7B and 3B, and the third the
tokenizer's files (default: the student's). Weights are drawn in bfloat16 and written once, 24 GB.
Then `laid cache` has the teacher alone in memory, and `laid fit` the student alone, with the
settings of configs/3b-24gb.yaml. Each is a process of its own; started again, it goes on where it
was. Prints the peak memory of each beside `laid plan`'s estimate, and writes OUT/true_size.json.
With `--layers 2` models have so many layers in decoder and vision tower, to try it out.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from side_by_side import Measured, Report, Runs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from laid.common.atomic_files import atomic_write_text, replacing
from laid.common.tables import NONE, Table
from laid.vlm.model_loading import ModelArgs, empty_model
from laid.vlm.model_paths import INDEX
from laid.vlm.weight_files import own_parameters

ROOT = Path(__file__).parents[2]
SHARD = 2**29
"""Bytes of a file of weights, unless one parameter has more."""
PIXELS = 448 * 448
"""Of every image: drawn ones are enlarged, others reduced; 256 tokens."""


def write_model(given: Path, tokenizer: Path, layers: int | None, out: Path) -> None:
    """Configuration, processor and drawn weights, in Hugging Face layout. Files of weights that
    are there stay."""
    out.mkdir(parents=True, exist_ok=True)
    for folder in (tokenizer, given):
        for path in folder.iterdir():
            if path.suffix in (".json", ".jinja", ".txt") and path.name != INDEX:
                shutil.copyfile(path, out / path.name)
    if layers is not None:
        config = json.loads((out / "config.json").read_text())
        vision = config["vision_config"]
        config["num_hidden_layers"] = vision["depth"] = layers
        vision["fullatt_block_indexes"] = [layers - 1]
        atomic_write_text(out / "config.json", json.dumps(config, indent=1))
    model = empty_model(ModelArgs(str(out), dtype="bfloat16"))
    deviation = model.config.text_config.initializer_range
    weight_map = {}
    for number, part in enumerate(_shards(own_parameters(model))):
        name = f"model-{number:05d}.safetensors"
        weight_map |= dict.fromkeys(part, name)
        if (out / name).is_file():
            continue
        draw = torch.Generator().manual_seed(number)
        drawn = {key: _drawn(key, x, deviation, draw) for key, x in part.items()}
        with replacing(out / name) as file:
            save_file(drawn, file.name, metadata={"format": "pt"})
    atomic_write_text(out / INDEX, json.dumps({"metadata": {}, "weight_map": weight_map}))


def _shards(parameters: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    part: dict[str, Tensor] = {}
    for name, x in parameters.items():
        if part and sum(x.nbytes for x in (*part.values(), x)) > SHARD:
            yield part
            part = {}
        part[name] = x
    yield part


def _drawn(name: str, like: Tensor, deviation: float, draw: torch.Generator) -> Tensor:
    if like.ndim == 1:
        return torch.full(like.shape, 1.0 if name.endswith("weight") else 0.0, dtype=like.dtype)
    return torch.empty(like.shape, dtype=like.dtype).normal_(0, deviation, generator=draw)


def measured(*words: object) -> Measured:
    """Runs a command of Python; returns what it printed, its seconds and its peak memory."""
    code = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]);"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss;"
        "print('peak', peak); sys.exit(done.returncode)"
    )
    command = [sys.executable, "-c", code, sys.executable, *map(str, words)]
    begun = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {"failed": f"{' '.join(map(str, words))} ended with {done.returncode}"}
    unit = 2**10 if sys.platform == "linux" else 1
    peak = int(done.stdout.split()[-1]) * unit / 2**30
    return {"seconds": time.perf_counter() - begun, "peak_gib": peak, "said": done.stdout}


def main() -> None:
    """Weights, cache, fit, plans."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--layers", type=int, help="of each model; default: all that it has")
    parser.add_argument("--images", type=int, default=2, help="of each of the two haystacks")
    parser.add_argument("--coco_root", default="minicoco")
    parser.add_argument("--out", type=Path, default=Path("runs/true-size"))
    parser.add_argument("--write", choices=("teacher", "student"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    tokenizer = args.tokenizer or args.student
    if args.write:
        write_model(getattr(args, args.write), tokenizer, args.layers, args.out / args.write)
        return
    of_run = {**vars(args), "out": None}
    runs = Runs(args.out, "true_size", json.loads(json.dumps(of_run, default=str)))

    def stage(name: str, *words: object) -> Measured:
        found = runs.run(name, 0, lambda: measured(*words))
        if "failed" in found:
            sys.exit(found["failed"])
        return found

    models = args.out / "teacher", args.out / "student"
    size = {
        model.name: stage(
            f"weights of the {model.name}", __file__, *sys.argv[1:], "--write", model.name
        )
        for model in models
    }
    settings = [
        "--config", ROOT / "configs" / "3b-24gb.yaml", "--model.teacher.path", models[0],
        "--model.student.path", models[1], "--data.coco_root", args.coco_root,
        "--data.train.entries", 2, "--data.train.min_size", args.images,
        "--data.train.max_size", args.images, "--data.validate.sizes", f"[{args.images}]",
        "--data.validate.per_size", 2, "--data.min_pixels", PIXELS, "--data.max_pixels", PIXELS,
        "--data.global_batch_size", 1, "--data.workers", 0, "--trainer.accelerator", "cpu",
    ]  # fmt: skip
    cached = ["--model.teacher_source", f"cache:{args.out / 'cache'}"]
    of_cache = stage("laid cache", "-m", "laid", "cache", *settings, *cached)
    run = args.out / f"fit-{time.time_ns()}"
    of_fit = stage(
        "laid fit", "-m", "laid", "fit", *settings, *cached, "--trainer.max_steps", 1,
        "--trainer.max_epochs", 1, "--trainer.limit_val_batches", 0,
        "--head_flow.enabled", "false", "--trainer.default_root_dir", args.out, "--name", run.name,
    )  # fmt: skip
    image = "--test_images", 0, "--image_width", 448, "--image_height", 448
    plan = "-m", "laid", "plan", *settings, *image
    online = stage("plan online", *plan, "--model.teacher_source", "online")["said"]
    planned = stage("plan cached", *plan, *cached)["said"]
    (losses,) = {path.parent: _losses(path) for path in args.out.glob("fit-*/events*")}.values()
    rows = []
    for name, found in size.items():
        rows.append(
            [f"writing the {name}'s weights", _peak(found), NONE, f"{found['seconds']:.0f}"]
        )
    rows.append(
        ["laid cache", _peak(of_cache), f"{_teacher(online):.2f}", f"{of_cache['seconds']:.0f}"]
    )
    training = re.search(r"training (?:fits|does not fit): ([\d.]+) GiB", planned)
    rows.append(
        ["laid fit", _peak(of_fit), training[1] if training else NONE, f"{of_fit['seconds']:.0f}"]
    )
    header = ["process", "peak GiB", "planned GiB", "wall-clock s"]
    title = f"Two haystacks of {args.images} images, loss of a step {losses[-1]:.4f}"
    table = Table("true_size", title, header, rows)
    Report("true_size", table, {"runs": runs.known, "losses": losses}).write(args.out)


def _peak(found: Measured) -> str:
    return f"{found['peak_gib']:.2f}"


def _losses(events: Path) -> list[float]:
    """Of each step; that they are finite, laid fit has checked."""
    found = EventAccumulator(str(events))
    found.Reload()
    return [scalar.value for scalar in found.Scalars("train/loss")]


def _teacher(plan: str) -> float:
    """GiB of the teacher's forward pass without a student, of a plan of a run with both."""
    kinds = re.search(r"GiB at the peak +total +(.+)", plan)
    row = re.search(r"teacher forward +([\d. ]+)\n", plan)
    assert kinds is not None
    assert row is not None
    _, *numbers = map(float, row[1].split())
    of_kind = dict(zip(kinds[1].split(), numbers, strict=True))
    return of_kind["teacher"] + of_kind["logits"] + of_kind["activations"]


if __name__ == "__main__":
    main()
