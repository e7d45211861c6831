"""The command ``laid pretrain tiny``: the package's tiny models, from nothing."""

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from laid.common.atomic_files import atomic_write_text, only_writer
from laid.common.cached_files import cache_root
from laid.common.errors import UserError
from laid.miniature.decoder_training import TrainingData, grow, new_model, train_decoder
from laid.miniature.haystack_layout import Writer
from laid.miniature.image_pool import Pool
from laid.miniature.model_cards import Card, write_folder
from laid.miniature.packaged_models import PACKAGED, packaged_config, packaged_processor
from laid.miniature.recipes import TinyRecipe, recipe_of
from laid.miniature.resumable_stage import Stage
from laid.miniature.tiny_models import tiny_model
from laid.miniature.tower_training import train_tower
from laid.minicoco.drawing import ensure_minicoco
from laid.vlm.export_marker import check_replaceable
from laid.vlm.model_loading import ModelArgs, load_model
from laid.vlm.model_paths import weights_fingerprint

TRAIN, HELD_OUT = "train2017", "val2017"
POSITIONS = "student-positions"
_POOL_SEED = 1000  # the default mini-COCO, with which models are tested, has seed 0.
_LINEAGES = ("", "independent-")
"""Prefixes of the stages' names: models with one tower."""
_STAGES = {
    "student": ("tower", "base"),
    POSITIONS: ("positions",),
    "teacher": ("tower", "base", "teacher"),
    "teacher-independent": ("independent-tower", "independent-base", "independent-teacher"),
}
"""The stages of each model; student-positions begins with the weights of student."""


def pretrain_tiny(
    out: str,
    seed: int = 0,
    work: str | None = None,
    overwrite: bool = False,
    student: str | None = None,
    family: Literal["qwen2_5_vl", "qwen3_vl"] = "qwen2_5_vl",
) -> None:
    """Train the package's tiny models from nothing, on drawn images.

    Writes the Hugging Face folders student, student-positions, teacher and teacher-independent,
    each with a model card (README.md): how it was made, and its accuracy. Takes about three
    quarters of an hour on two CPU cores. After an interruption the same command resumes. Of another
    family than the package's, teacher is left out.

    Args:
        out: The output folder; created if it does not exist.
        seed: An integer, 0 or more.
        work: Folder of intermediate results; by default one in laid's cache.
        overwrite: Replace models in the output folder.
        student: Make student-positions alone, from this student, such as tiny/student.
        family: The models' family.

    Raises:
        UserError: The output folder has models already, the work folder is of another recipe, seed
            or student, the seed is negative, or the student is not one of this command.
    """
    torch.set_num_threads(1)
    folder = None if work is None else Path(work)
    run(recipe_of(family), Path(out), folder, seed, overwrite, student, family=family)


def run(
    recipe: TinyRecipe,
    out: Path,
    work: Path | None,
    seed: int,
    overwrite: bool = False,
    student: str | None = None,
    processes: int = 2,
    family: str = PACKAGED,
) -> None:
    """``pretrain_tiny`` with any recipe; ``processes`` 1 trains everything in this one."""
    if seed < 0:
        raise UserError(f"seed {seed}: expected 0 or more")
    command, begun, names = f"laid pretrain tiny --out DIR --seed {seed}", "", list(_STAGES)
    if family != PACKAGED:
        command += f" --family {family}"
        names.remove("teacher")
    if student is not None:
        begun, names = weights_fingerprint(student, None), [POSITIONS]
        command += f" --student {student}"
    if work is None:
        kind = "" if family == PACKAGED else family
        work = cache_root() / "-".join(filter(None, ("pretrain-tiny", kind, str(seed), begun)))
    with only_writer(out):
        existing = [name for name in names if (out / name / "model.safetensors").exists()]
        if existing and not overwrite:
            raise UserError(
                f"{out} already has {', '.join(existing)}. Choose another folder, or replace them "
                "with overwrite=true."
            )
        for name in names:
            if (out / name).exists():
                check_replaceable(out / name, [Path.cwd()])
        made_from = {"seed": seed, "student": begun, "recipe": asdict(recipe)}
        _check_work(work, made_from if family == PACKAGED else {"family": family, **made_from})
        root = drawn_pool(recipe, seed)
        both = range(len(_LINEAGES)) if student is None else []
        jobs = [(recipe, root, work, seed, at, family) for at in both]
        if processes == 1:
            for job in jobs:
                train_lineage(*job)
        elif jobs:
            context = get_context("spawn")
            lock = (context.RLock(),)
            with ProcessPoolExecutor(processes, context, tqdm.set_lock, lock) as executor:
                try:
                    for future in [executor.submit(train_lineage, *job) for job in jobs]:
                        future.result()
                except BaseException:  # the executor would wait for the other
                    for process in active_children():
                        process.terminate()
                    raise
        train_positions(recipe, root, work, seed, student, family)
        for name in names:
            write_folder(out, name, Card(command, recipe, results_of(work, name), family))


def drawn_pool(recipe: TinyRecipe, seed: int) -> Path:
    """The mini-COCO that models are trained on and towers measured with; drawn on first use."""
    images = {TRAIN: recipe.images, HELD_OUT: recipe.held_out}
    return ensure_minicoco(seed=_POOL_SEED + seed, images=images)


def train_lineage(
    recipe: TinyRecipe, root: Path, work: Path, seed: int, number: int, family: str = PACKAGED
) -> None:
    """Trains tower, base and teacher of a lineage in one thread; finished stages are not repeated.

    ``number`` determines the lineage's own seed and the lines of its progress bars. Of another
    family than the package's, the first has no teacher.
    """
    torch.set_num_threads(1)
    prefix = _LINEAGES[number]
    tower_stage, base_stage, teacher_stage = (
        Stage(work, prefix + name, position=number) for name in ("tower", "base", "teacher")
    )
    with_teacher = number > 0 or family == PACKAGED
    if (teacher_stage if with_teacher else base_stage).result() is not None:
        return
    own_seed = len(_LINEAGES) * seed + number
    processor = packaged_processor(family)
    config = packaged_config("student", processor)
    pool, held_out = Pool.load(root, TRAIN), Pool.load(root, HELD_OUT)
    writer = Writer(processor, pool.categories)
    tower = train_tower(config, pool, held_out, recipe.tower, own_seed, tower_stage)
    model = new_model(config, tower, writer, own_seed)
    data = TrainingData.of(model, pool, writer)
    train_decoder(model, data, recipe.base, own_seed, base_stage)
    if with_teacher:  # the base stays as it is; its grown copy becomes the teacher
        grown = grow(model, packaged_config("teacher", processor), own_seed)
        train_decoder(grown, data, recipe.teacher, own_seed, teacher_stage)


def train_positions(
    recipe: TinyRecipe,
    root: Path,
    work: Path,
    seed: int,
    student: str | None,
    family: str = PACKAGED,
) -> None:
    """Trains ``student``, or the base, on at the positions of long haystacks.

    Raises:
        UserError: ``student`` is a model of another shape.
    """
    stage = Stage(work, "positions")
    if stage.result() is not None:
        return
    if student is not None:
        weights = load_model(ModelArgs(student)).state_dict()
    else:  # rounded as the student is when it is written: both ways give the same model
        base = results_of(work, "student")["base"]["model"]
        weights = {name: value.bfloat16() for name, value in base.items()}
    processor = packaged_processor(family)
    model = tiny_model(packaged_config(POSITIONS, processor))
    try:
        model.load_state_dict(weights)
    except RuntimeError as reason:
        raise UserError(f"{student!r} is no student of laid pretrain tiny: {reason}") from reason
    pool = Pool.load(root, TRAIN)
    data = TrainingData.of(model, pool, Writer(processor, pool.categories))
    train_decoder(model, data, recipe.positions, len(_LINEAGES) * seed, stage)


def results_of(work: Path, name: str) -> dict[str, dict[str, Any]]:
    """The results of the stages of a model, by name."""
    stages = {stage.removeprefix(_LINEAGES[1]): stage for stage in _STAGES[name]}
    return {name: Stage(work, stage).result() or {} for name, stage in stages.items()}


def _check_work(work: Path, made_from: dict[str, Any]) -> None:
    """Refuses a work folder whose stages are of another run, and marks a new one."""
    path = work / "recipe.json"
    text = json.dumps(made_from, indent=1)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{work} has intermediate results of another recipe, seed, family or student. Remove "
            "it, or choose another folder with work."
        )
    atomic_write_text(path, text)
