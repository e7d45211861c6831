"""Runs a few seeded steps of every shipped tiny configuration, and of the settings they leave out.

    python tests/training/seeded.py            record anew, into seeded_losses.json beside this file

Record anew only with a change that is meant to change the computation, and say so in its commit.
"""

import contextlib
import io
import json
import platform
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).with_name("seeded_losses.json")
CONFIGS = ROOT / "configs"
TAGS = ("train/", "grad_norm/", "val/")

COMMON = """
    --trainer.max_steps 4 --trainer.log_every_n_steps 1 --trainer.enable_progress_bar false
    --data.train.entries 24 --data.train.min_size 2 --data.train.max_size 4
    --data.global_batch_size 4 --data.batch_size 4
    --data.validate.sizes [2,3] --data.validate.per_size 4
    --trainer.val_check_interval 2 --checkpoint.every_n_train_steps 4 --head_flow.enabled false
"""
"""After every configuration."""
EARLIER = "--model.student.path tiny/student --model.teacher.path tiny/teacher"
"""The models of all runs but those of ``tiny.yaml`` as it is."""
ALIGNED = "laid.weight 1 retrieval.weight 0 "
"""Before the settings of ``MORE``."""
MORE = {
    "final": "laid.layers final",
    "pairs": "laid.layers [[0,3],[2,1]]",
    "sum": "laid.reduction sum laid.weight 1e-6",
    "shared-keys": "laid.mixing.keys shared laid.mixing.initial uniform",
    "least-squares": "laid.mixing.initial least-squares laid.calibration 4",
    "complex": "laid.mixing.weights complex laid.mixing.normalisation none "
    "laid.mixing.initial least-squares laid.calibration 4",
    "image-share": "laid.weight 0 image_share.weight 1",
    "both": "retrieval.weight 1 retrieval.calibration 4",
    "matched": "laid.layers matched laid.calibration 4",
    "independent": "--model.teacher.path tiny/teacher-independent",
    "one-by-one": "--data.batch_size 1 --data.cache_features false --data.workers 1 "
    "--data.group_by_size false",
    "recomputed": "--model.student.activation_checkpointing true --data.cache_features false",
    "vision": "--model.student.freeze_vision false --data.cache_features false",
    "rope-gain": "--model.rope_gain.layers all",
}
"""What no shipped configuration sets, after ``tiny.yaml``; names without -- are the objective's."""


def variants() -> dict[str, list[str]]:
    """The command line of each run, by name."""
    tiny, common = ["--config", str(CONFIGS / "tiny.yaml")], COMMON.split()
    methods = sorted((CONFIGS / "method").glob("*.yaml"))
    models = [*common, *EARLIER.split()]
    by_method = {m.stem: [*tiny, "--config", str(m), *models] for m in methods}
    by_setting = {
        name: [
            *tiny,
            *models,
            *re.sub(
                r"(?<!\S)(laid|retrieval|image_share)\.", r"--model.objective.\1.", ALIGNED + words
            ).split(),
        ]
        for name, words in MORE.items()
    }
    return {"tiny": [*tiny, *common], **by_method, **by_setting}


def machine() -> dict[str, str]:
    """What decides how PyTorch rounds: on another machine, the last digits may differ."""
    import torch

    torch.manual_seed(0)
    rows, columns = torch.randn(2, 96, 64, requires_grad=True)
    product = (rows @ columns.T).softmax(-1) @ columns
    product.square().mean().backward()
    return {
        "torch": torch.__version__.partition("+")[0],
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "probe": product.double().sum().item().hex(),
    }


def scalars(folder: Path) -> dict[str, list[float]]:
    """The logged losses, gradient norms and accuracies of a run, step by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    board.Reload()
    tags = [tag for tag in board.Tags()["scalars"] if tag.startswith(TAGS)]
    return {tag: [event.value for event in board.Scalars(tag)] for tag in sorted(tags)}


def run_all(coco_root: Path, work: Path) -> dict[str, Any]:
    """Fits every variant in this process, in the folder ``work``."""
    import torch

    from laid.cli.main import main

    torch.set_num_threads(1)
    losses = {}
    with contextlib.chdir(work), contextlib.redirect_stdout(io.StringIO()):
        for name, words in variants().items():
            main(["fit", *words, "--data.coco_root", str(coco_root), "--name", name])
            losses[name] = scalars(work / "runs" / name)
    return {"machine": machine(), "losses": losses}


if __name__ == "__main__":
    from laid.minicoco.drawing import draw_minicoco

    with tempfile.TemporaryDirectory() as folder:
        images = {"train2017": 120, "val2017": 120}  # of the tests' ``drawn``, what is trained on
        found = run_all(draw_minicoco(Path(folder) / "coco", seed=3, images=images), Path(folder))
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else RECORD
    target.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{target}: {len(found['losses'])} runs")
