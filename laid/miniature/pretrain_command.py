"""The command ``laid pretrain tiny``: the package's tiny models, from nothing."""

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import active_children, get_context
from pathlib import Path

import torch
from tqdm import tqdm

from laid.common.atomic_files import atomic_write_text, only_writer
from laid.common.cache_folder import cache_root
from laid.common.errors import UserError
from laid.miniature.decoder_training import (
    DecoderResult,
    TrainingData,
    grow,
    new_model,
    train_decoder,
)
from laid.miniature.haystack_layout import Writer
from laid.miniature.image_pool import Pool
from laid.miniature.model_cards import Card, write_folder
from laid.miniature.packaged_models import packaged_config, packaged_processor
from laid.miniature.question_sampler import Sampler
from laid.miniature.recipes import TinyRecipe
from laid.miniature.resumable_stage import Stage
from laid.miniature.tower_training import TOKENS, TowerResult, encode_pool, train_tower
from laid.minicoco.drawing import ensure_minicoco
from laid.vlm.export_marker import check_replaceable

TRAIN, HELD_OUT = "train2017", "val2017"
_POOL_SEED = 1000  # the default mini-COCO, with which models are tested, has seed 0.
_LINEAGES: dict[str, dict[str, tuple[str, ...]]] = {
    "": {"student": ("base",), "teacher": ("base", "teacher")},
    "independent-": {"teacher-independent": ("base", "teacher")},
}
"""By prefix of the stages' names: the models with one tower, and the stages after it."""


def pretrain_tiny(
    out: str,
    seed: int = 0,
    work: str | None = None,
    independent: bool = True,
    processes: int = 2,
    overwrite: bool = False,
) -> None:
    """Train the package's tiny models from nothing, on drawn images.

    Writes the Hugging Face folders student, teacher and teacher-independent, each with a model card
    (README.md): how it was made, and its accuracy. Takes about three quarters of an hour on two
    CPU cores. After an interruption the same command resumes.

    Args:
        out: The output folder; created if it does not exist.
        seed: An integer, 0 or more.
        work: Folder of intermediate results; by default pretrain-tiny-SEED in laid's cache.
        independent: Also train a teacher that shares no weights with the student.
        processes: 2 trains both teachers at the same time, 1 one after the other.
        overwrite: Replace models in the output folder.

    Raises:
        UserError: The output folder has models already, the work folder is of another recipe or
            seed, or an argument is out of range.
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
    """``pretrain_tiny`` with any recipe; ``command`` is what the cards say."""
    if processes not in (1, 2):
        raise UserError(f"processes {processes}: expected 1 or 2")
    if seed < 0:
        raise UserError(f"seed {seed}: expected 0 or more")
    lineages = list(_LINEAGES.items())[: 1 + independent]
    names = [name for _, models in lineages for name in models]
    existing = [name for name in names if (out / name / "model.safetensors").exists()]
    if existing and not overwrite:
        raise UserError(
            f"{out} already has {', '.join(existing)}. Choose another folder, or replace them with "
            "overwrite=true."
        )
    for name in names:
        if (out / name).exists():
            check_replaceable(out / name, [Path.cwd()])
    _check_work(work, recipe, seed)
    images = {TRAIN: recipe.images, HELD_OUT: recipe.held_out}
    root = ensure_minicoco(seed=_POOL_SEED + seed, images=images)
    jobs = [(recipe, root, work, seed, prefix, at) for at, (prefix, _) in enumerate(lineages)]
    if processes == 1 or len(jobs) == 1:
        for job in jobs:
            train_lineage(*job)
    else:
        context = get_context("spawn")
        lock = (context.RLock(),)
        with ProcessPoolExecutor(len(jobs), context, tqdm.set_lock, lock) as pool:
            try:
                for future in [pool.submit(train_lineage, *job, threads=1) for job in jobs]:
                    future.result()
            except BaseException:  # the pool would wait for the other
                for process in active_children():
                    process.terminate()
                raise
    for prefix, models in lineages:
        for name, stages in models.items():
            write_folder(out, name, _card(recipe, work, prefix, stages, command))


def train_lineage(
    recipe: TinyRecipe,
    root: Path,
    work: Path,
    seed: int,
    prefix: str,
    number: int,
    threads: int | None = None,
) -> None:
    """Trains tower, base and teacher of one lineage; finished stages are not repeated.

    ``number`` determines the lineage's own seed and the lines of its progress bars; ``threads`` are
    torch's, None: as they are.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    tower_stage, base_stage, teacher_stage = (
        Stage(work, prefix + name, position=number) for name in ("tower", "base", "teacher")
    )
    if teacher_stage.result() is not None:
        return
    own_seed = 2 * seed + number
    processor = packaged_processor()
    config = packaged_config("student", processor)
    pool, held_out = Pool.load(root, TRAIN), Pool.load(root, HELD_OUT)
    writer = Writer(processor, pool.categories, TOKENS)
    tower = train_tower(config, pool, held_out, recipe.tower, own_seed, tower_stage)
    model = new_model(config, tower, writer, own_seed)
    data = TrainingData(encode_pool(model.model.visual, pool), Sampler(pool.present_IC), writer)
    train_decoder(model, data, recipe.base, own_seed, base_stage)
    # The base stays as it is; its grown copy becomes the teacher.
    grown = grow(model, packaged_config("teacher", processor), own_seed)
    train_decoder(grown, data, recipe.teacher, own_seed, teacher_stage)


def _card(
    recipe: TinyRecipe, work: Path, prefix: str, stages: tuple[str, ...], command: str
) -> Card:
    results = {name: Stage(work, prefix + name).result() or {} for name in ("tower", *stages)}
    tower = TowerResult(**results.pop("tower"))
    decoders = {name: DecoderResult(**result) for name, result in results.items()}
    return Card(command, recipe, tower, decoders)


def _check_work(work: Path, recipe: TinyRecipe, seed: int) -> None:
    """Refuses a work folder whose stages are of another recipe or seed, and marks a new one."""
    path = work / "recipe.json"
    text = json.dumps({"seed": seed, "recipe": asdict(recipe)}, indent=1)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{work} has intermediate results of another recipe or seed. Remove it, or choose "
            "another folder with work."
        )
    atomic_write_text(path, text)
