"""The command ``laid pretrain tiny``: the package's tiny models, from nothing."""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import Qwen2_5_VLForConditionalGeneration

from laid.common.atomic_files import atomic_write_text, only_writer
from laid.common.cache_folder import cache_root
from laid.common.errors import UserError
from laid.miniature.decoder_training import (
    LanguageRecipe,
    Material,
    grow,
    new_model,
    train_language,
)
from laid.miniature.haystack_layout import Writer
from laid.miniature.image_pool import Pool
from laid.miniature.model_cards import Card, write_folder
from laid.miniature.packaged_models import packaged_config, packaged_processor
from laid.miniature.question_sampler import Sampler
from laid.miniature.resumable_stage import Stage
from laid.miniature.tower_training import TOKENS, TowerRecipe, encode_pool, train_tower
from laid.minicoco.drawing import ensure_minicoco
from laid.vlm.export_marker import check_replaceable

TRAIN, HELD_OUT = "train2017", "val2017"
_POOL_SEED = 1000  # The default mini-COCO, with which models are tested, has seed 0.


@dataclass(frozen=True)
class TinyRecipe:
    """All that decides what comes out, next to the seed."""

    images: int = 24000
    held_out: int = 2000
    tower: TowerRecipe = field(default_factory=TowerRecipe)
    base: LanguageRecipe = field(default_factory=lambda: LanguageRecipe((1, 2, 4)))
    teacher: LanguageRecipe = field(
        default_factory=lambda: LanguageRecipe(
            (8, 16, 32, 64, 128), threshold=0.93, cooldown=1200, limit=3000
        )
    )
    test_per_size: int = 400
    test_sizes: Sequence[int] = (1, 2, 5, 10, 20, 50, 100, 150)


def pretrain_tiny(
    out: str,
    seed: int = 0,
    work: str | None = None,
    independent: bool = True,
    processes: int = 2,
    overwrite: bool = False,
) -> None:
    """Train the package's tiny models from nothing, on drawn images.

    Writes the Hugging Face folders student, teacher and teacher-independent into the output
    folder, each with a README.md that says how it was made and how well it answers. Takes about
    three quarters of an hour on two CPU cores. Started again after an interruption, it goes on
    where it was.

    Args:
        out: The folder to write to; it is made if it is missing.
        seed: 0 or any whole number above.
        work: Folder of intermediate results; pretrain-tiny-SEED in laid's cache by default.
        independent: Also train a teacher that shares nothing with the student.
        processes: The two teachers' lines are trained side by side with 2, one by one with 1.
        overwrite: Replace models that are already there.

    Raises:
        UserError: The output folder holds models already, the work folder is of another recipe,
            or an argument is out of range.
    """
    folder = Path(work) if work is not None else cache_root() / f"pretrain-tiny-{seed}"
    command = f"laid pretrain tiny --out DIR --seed {seed}"
    with only_writer(out):
        run(TinyRecipe(), Path(out), folder, seed, independent, processes, overwrite, command)


def run(
    recipe: TinyRecipe,
    out: Path,
    work: Path,
    seed: int,
    independent: bool,
    processes: int,
    overwrite: bool,
    command: str,
) -> None:
    """``pretrain_tiny`` with any recipe; ``command`` is what the cards name."""
    if processes not in (1, 2):
        raise UserError(f"processes {processes}: expected 1 or 2")
    if seed < 0:
        raise UserError(f"seed {seed}: expected 0 or more")
    names = ["student", "teacher"] + ["teacher-independent"] * independent
    there = [name for name in names if (out / name / "model.safetensors").exists()]
    if there and not overwrite:
        raise UserError(
            f"{out} already holds {', '.join(there)}. Choose another folder, or give "
            "overwrite=true to replace them."
        )
    for name in names:
        if (out / name).exists():
            check_replaceable(out / name, [Path.cwd()])
    _claim(work, recipe, seed)
    images = {TRAIN: recipe.images, HELD_OUT: recipe.held_out}
    root = ensure_minicoco(seed=_POOL_SEED + seed, images=images)
    lines = ["", "independent-"][: 1 + independent]
    jobs = [(recipe, root, work, seed, line, at) for at, line in enumerate(lines)]
    if processes == 1 or len(jobs) == 1:
        for job in jobs:
            train_line(*job)
    else:
        context = get_context("spawn")
        with ProcessPoolExecutor(
            len(jobs), context, initializer=tqdm.set_lock, initargs=(context.RLock(),)
        ) as pool:
            for future in [pool.submit(train_line, *job, threads=1) for job in jobs]:
                future.result()
    for line in lines:
        for name, stages in _models(line).items():
            write_folder(out, name, _card(recipe, work, seed, line, stages, command))


def train_line(
    recipe: TinyRecipe,
    root: Path,
    work: Path,
    seed: int,
    line: str,
    number: int,
    threads: int | None = None,
) -> None:
    """Trains tower, base and teacher of one line; what is finished already is left as it is.

    Args:
        recipe: of all stages.
        root: the drawn images.
        work: where the stages keep their files.
        seed: of the command.
        line: what the names of the stages begin with.
        number: of the line: it makes the line's own seed, and chooses the lines of the bars.
        threads: of torch; None leaves them.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    stages = {
        name: Stage(work, f"{line}{name}", position=number) for name in ("tower", "base", "teacher")
    }
    if stages["teacher"].result() is not None:
        return
    own = 2 * seed + number
    processor = packaged_processor()
    base_config = packaged_config("student", processor)
    pool = Pool.load(root, TRAIN)
    writer = Writer(processor, pool.categories, TOKENS)
    tower = train_tower(
        base_config, pool, Pool.load(root, HELD_OUT), recipe.tower, own, stages["tower"]
    )
    model = new_model(base_config, tower, writer, own)
    features_IVH = encode_pool(model.model.visual, pool)
    material = Material(features_IVH, Sampler(pool.present_IC), writer)
    train_language(model, material, recipe.base, own, stages["base"])
    # The base stays as it is; its grown copy becomes the teacher.
    grown: Qwen2_5_VLForConditionalGeneration = grow(
        model, packaged_config("teacher", processor), own
    )
    train_language(grown, material, recipe.teacher, own, stages["teacher"])


def _models(line: str) -> dict[str, tuple[str, ...]]:
    """The models of a line that are written out, with the stages that each went through."""
    if line:
        return {"teacher-independent": ("tower", "base", "teacher")}
    return {"student": ("tower", "base"), "teacher": ("tower", "base", "teacher")}


def _card(
    recipe: TinyRecipe, work: Path, seed: int, line: str, stages: tuple[str, ...], command: str
) -> Card:
    results: dict[str, dict[str, Any]] = {}
    for stage in stages:
        result = Stage(work, f"{line}{stage}").result()
        assert result is not None  # train_line has finished
        results[stage] = result
    return Card(
        seed=seed,
        command=command,
        recipe={name: getattr(recipe, name) for name in stages},
        images=recipe.images,
        held_out=recipe.held_out,
        results=results,
        test_per_size=recipe.test_per_size,
        test_sizes=tuple(recipe.test_sizes),
    )


def _claim(work: Path, recipe: TinyRecipe, seed: int) -> None:
    """Makes sure that a work folder's stages are of this recipe and seed."""
    path = work / "recipe.json"
    text = json.dumps({"seed": seed, "recipe": asdict(recipe)}, indent=1)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{work} holds the work of another recipe or seed. Remove it, or name another folder "
            "with work."
        )
    atomic_write_text(path, text)
