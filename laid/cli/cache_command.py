"""``laid cache``: what the objective asks of a teacher, for each training entry, on disk."""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from laid.cli.lightning_app import trainer_of
from laid.common.errors import UserError
from laid.common.stopping import Stopped
from laid.losses.term import ModelPair
from laid.settings.run_settings import RUNS, read_settings, settings_parser
from laid.signals.model_signals import Wanted
from laid.teacher_cache.hub_cache import HUB
from laid.training.module import LaidModule
from laid.training.objective import wanted_of_teacher
from laid.training.teacher_choice import CACHE
from laid.training.teacher_run import CacheEntries, TeacherRun
from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import load_config
from laid.vlm.pair_check import check_teacher
from laid.vlm.processor import load_tokenizer

log = logging.getLogger(__name__)


def run(words: Sequence[str]) -> None:
    """Makes a cache, or what is missing or damaged in one.

    Args:
        words: the command line after ``cache``.

    Raises:
        UserError: a setting that ``laid fit`` would refuse, a folder that holds something else,
            too little space on the disk, or entries that are still missing at the end.
    """
    parser = settings_parser("laid cache", (__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="Folder of the cache; what it holds already is kept. Default: that of "
        "model.teacher_source cache:FOLDER.",
    )
    config = read_settings(parser, words).config
    config.trainer.default_root_dir = config.trainer.default_root_dir or RUNS
    made = parser.instantiate(config)
    module: LaidModule = made.model
    if config.out is not None and (not config.out or config.out.startswith((HUB, f"{CACHE}:"))):
        raise UserError(
            f"--out {config.out!r}: expected a folder on this machine, such as runs/cache; laid "
            "cache push brings it to the hub"
        )
    out = Path(config.out) if config.out is not None else module.chosen_teacher.folder
    if out is None:
        raise UserError("--out is missing: name the folder of the cache")
    for name, all_of_them in (("fast_dev_run", "False"), ("limit_predict_batches", "1.0")):
        if (given := config.trainer[name]) is not None and repr(given) != all_of_them:
            raise UserError(
                f"--trainer.{name} {given}: laid cache stores all entries; for fewer, give "
                "data.train.entries"
            )
    wanted = _wanted(module)
    assert module.teacher_args is not None
    options = dict(vars(made.trainer))
    options |= {"logger": False, "callbacks": None, "enable_checkpointing": False}
    trainer = trainer_of(options)
    stored_as = module.chosen_teacher.stored_as
    entries = CacheEntries(made.data, out, module.teacher_args, wanted, stored_as)
    try:
        trainer.predict(
            TeacherRun(module.teacher_args, wanted), datamodule=entries, return_predictions=False
        )
    except Stopped as stop:
        stop.advice = f"To resume: {shlex.join(['laid', 'cache', *words])}"
        raise
    finally:
        entries.close()
    if trainer.is_global_zero:
        _report(entries, out)


def _wanted(module: LaidModule) -> Wanted:
    """What a run may ask of the teacher, by configurations alone."""
    terms, student = module.objective_args.of_teacher, module.student_args
    if not terms:
        raise UserError(
            "the objective has no term with a teacher, so there is nothing to store: give one a "
            "weight, such as --model.objective.kl.weight 1"
        )
    check_teacher(student, module.teacher_args, load_tokenizer, terms)
    assert module.teacher_args is not None
    ours, theirs = (family_of(load_config(m)).shape for m in (student, module.teacher_args))
    models = ModelPair(ours, theirs, len(load_tokenizer(student)), _no_rotation, _no_rotation)
    return wanted_of_teacher(module.objective_args, models)


def _no_rotation(x_BLHD: Tensor, positions_3BL: Tensor, layer: int = 0) -> Tensor:
    raise AssertionError("no term rotates anything before its loss")


def _report(entries: CacheEntries, out: Path) -> None:
    unfinished = entries.store.unfinished()
    if unfinished:
        assert entries.filling is not None
        count = sum(len(entries.store.entries_of(shard)) for shard in unfinished)
        others = ", some of which another process was writing" * bool(entries.filling.left)
        raise UserError(f"{out} lacks {count:,} entries{others}: run the same command again")
    log.info("%s is complete: --model.teacher_source cache:%s trains from it", out, out)
