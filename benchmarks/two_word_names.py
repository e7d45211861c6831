"""Tiny models that know objects by names of two words, and drawn images with such names.

    python benchmarks/two_word_names.py FOLDER

Neither word of a name is enough: "hot ball", "hot light", "wine ball", ... Writes FOLDER/coco, the
drawn images with these names, and FOLDER/student and FOLDER/teacher: tiny/student-positions and
tiny/teacher-independent, trained further as `laid pretrain tiny` does it, on the images that it
uses. Takes some ten minutes of a core a model; after an interruption the same command resumes. For
benchmarks/two_word_names.yaml.
"""

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from laid.common.atomic_files import atomic_dir
from laid.miniature.decoder_training import TrainingData, train_decoder
from laid.miniature.haystack_layout import Writer
from laid.miniature.image_pool import Pool
from laid.miniature.packaged_models import packaged_config, packaged_processor
from laid.miniature.pretrain_command import TRAIN, drawn_pool
from laid.miniature.recipes import DecoderRecipe, TinyRecipe
from laid.miniature.resumable_stage import Stage
from laid.miniature.tiny_models import write_tiny
from laid.minicoco.drawing import ensure_minicoco
from laid.vlm.hf_folder import write_model
from laid.vlm.model_loading import ModelArgs, load_model

FIRST = ("hot", "wine", "fire", "sports", "stop")
SECOND = ("ball", "light", "glass", "glove", "sign")
NAMES = tuple(" ".join(words) for words in itertools.product(FIRST, SECOND))
"""Of words that COCO's names have, so each is one token."""
RECIPES = {
    "student": (
        "student-positions",
        DecoderRecipe((1, 2, 4), cooldown=750, limit=6000, slots=155),
    ),
    "teacher": (
        "teacher-independent",
        DecoderRecipe((1, 2, 4, 8, 16, 32, 64, 128), threshold=0.93, cooldown=1200, limit=6000),
    ),
}
"""The packaged model that each begins with, and how it is trained."""


def rename(root: Path, out: Path) -> None:
    """Writes the COCO folder ``root`` with names of two words; its images are links."""
    if out.exists():
        return
    with atomic_dir(out) as folder:
        (folder / "annotations").mkdir()
        for path in sorted((root / "annotations").iterdir()):
            coco = json.loads(path.read_text(encoding="utf-8"))
            for category, name in zip(coco["categories"], NAMES, strict=False):
                category["name"] = name
            (folder / "annotations" / path.name).write_text(json.dumps(coco), encoding="utf-8")
            split = path.stem.removeprefix("instances_")
            (folder / split).symlink_to((root / split).resolve())


def train(name: str, out: Path) -> None:
    """Trains a model of ``RECIPES`` and writes it, in bfloat16."""
    if (out / name).exists():
        return
    packaged, recipe = RECIPES[name]
    processor = packaged_processor()
    model = load_model(ModelArgs(f"tiny/{packaged}"))
    pool = Pool.load(drawn_pool(TinyRecipe(), seed=0), TRAIN)
    words_C = Writer(processor, pool.categories).words_C
    pool = replace(pool, categories=NAMES[: len(pool.categories)])
    writer = Writer(processor, pool.categories)
    # A row names the needle's other objects by the words that the model knows.
    writer.words_C = words_C
    data = TrainingData.of(model, pool, writer)
    train_decoder(model, data, recipe, seed=0, stage=Stage(out, name))
    with atomic_dir(out / name) as folder:
        write_tiny(folder, packaged_config(packaged, processor), processor)
        write_model(folder, ModelArgs(str(folder)), model.state_dict(), torch.bfloat16)


def main(out: Path) -> None:
    """Writes the images, then the models."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    rename(ensure_minicoco(), out / "coco")
    for name in RECIPES:
        train(name, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
