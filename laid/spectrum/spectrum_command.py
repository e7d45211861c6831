"""``laid spectrum``: which rotary frequencies the attention of several models uses."""

import json
import logging
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from laid import __version__
from laid.common.command_parser import CommandParser
from laid.common.errors import UserError
from laid.common.json_codec import to_json
from laid.common.logging_setup import without_repeats
from laid.common.printable import for_file_name, printable
from laid.common.report_folder import report_folder
from laid.common.tables import comma_separated, text
from laid.data.entry_args import EvaluationArgs
from laid.evaluation.accuracy_figures import save_png
from laid.inspection.named_models import Dtype, NamedModel, named_models
from laid.inspection.shown_haystacks import ShownHaystacks, device_of, encoding_of
from laid.minicoco.drawing import MINICOCO
from laid.spectrum.low_frequency import check_wavelength
from laid.spectrum.spectrum_figures import mixed_figure, share_figure, usage_figure
from laid.spectrum.spectrum_measurement import (
    SIZES,
    MeasuredSpectrum,
    measure,
    mixed_queries,
)
from laid.spectrum.spectrum_report import (
    MixedSpectrum,
    SpectrumReport,
    mixed_table,
    nested,
    pair_table,
    share_tables,
    summarised,
)

log = logging.getLogger(__name__)

SPLIT = "val2017"
_OF_A_REPORT = re.compile(r"spectrum\.(json|csv)|(usage|low_frequency|mixed_.+)\.png")


def spectrum(
    models: Sequence[str],
    out: str,
    base: str | None = None,
    coco_root: str = MINICOCO,
    source: list[str] | None = None,
    image_root: str | None = None,
    split: str | None = None,
    sizes: list[int] | None = None,
    per_size: int = 16,
    seed: int = 0,
    prefix: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    low_wavelength: float | None = None,
    dtype: Dtype | None = None,
    device: str | None = None,
    command: str = "",
) -> None:
    """Splits the attention logits of several models into rotary frequencies, on the same haystacks.

    Prints the share of low-frequency pairs by model, and writes spectrum.json, spectrum.csv and
    figures. docs/spectrum.md has the formulas. An earlier report in the folder is replaced when the
    new one is whole; other files stay.

    Args:
        models: NAME=WHAT for each: a folder in Hugging Face layout, a hub id, a model of the
            package, a run's folder, a checkpoint, or last.
        out: Folder to write into.
        base: Name of the model that the others are compared with. None: the first.
        coco_root: COCO folder, or minicoco.
        source: Visual Haystacks JSONs, or conversations, to take haystacks from; entries without
            images are left out. None: built as for laid test.
        image_root: Folder of the images that the conversations name. None: that of each file.
        split: Images of built haystacks. None: val2017.
        sizes: Haystack sizes. None: 2 10 20 where they are built, all of a source.
        per_size: How many of each size, an even number where they are built.
        seed: Seed of built haystacks.
        prefix: Text before every question. None: the runs', that of Visual Haystacks without a run.
        min_pixels: Images with fewer pixels are enlarged. None: as the runs have it, as a model's
            processor says without a run.
        max_pixels: Images with more pixels are reduced. None: likewise.
        low_wavelength: Pairs whose wavelength is longer, in positions, are low-frequency. None: the
            length of the longest haystack.
        dtype: Of the weights. None: a run's own, float32 for other models.
        device: Such as cpu or cuda:0. None: the first GPU if there is one.

    Raises:
        UserError: a model that is none, is named twice or can't be read; an option out of range;
            runs that differ in prefix or pixels.
    """
    chosen = named_models(models, dtype)
    names = [model.name for model in chosen]
    if base is not None and base not in names:
        raise UserError(f"--base {base}: expected a name of --models: {', '.join(names)}")
    check_wavelength("--low_wavelength", low_wavelength)
    if source is not None and split is not None:
        raise UserError("--split is of haystacks that are built; leave it or --source out")
    if source is None and image_root is not None:
        raise UserError("--image_root is of the images that --source names; leave it out")
    wanted = list(SIZES) if sizes is None and source is None else sizes
    entries = EvaluationArgs(source, SPLIT if split is None else split, wanted, per_size)
    typed = {"prefix": prefix, "min_pixels": min_pixels, "max_pixels": max_pixels}
    encoding, notes = encoding_of(chosen, typed)
    haystacks = ShownHaystacks(coco_root, entries, seed, encoding, device_of(device), image_root)
    with report_folder(out, _OF_A_REPORT) as folder, without_repeats():
        measured: dict[str, MeasuredSpectrum] = {}
        mixed: list[MixedSpectrum] = []
        for model in chosen:
            found = measure(model.load(haystacks.device), haystacks.batches(model.args))
            _check_finite(model, found)
            log.info("%s: %d haystacks", model.name, len(found.sizes))
            measured[model.name] = found
            mixed += _mixed(model, found, haystacks, notes)
        low = low_wavelength or max(of.positions for of in measured.values())
        of_base = base or names[0]
        report = SpectrumReport(
            command=command,
            laid_version=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            haystacks=dict(sorted(Counter(found.sizes).items())),
            low_wavelength=low,
            base=of_base,
            models=[
                summarised(
                    model.name,
                    model.what,
                    measured[model.name],
                    low,
                    None if model.name == of_base else measured[of_base],
                )
                for model in chosen
            ],
            mixed=mixed,
            notes=notes,
        )
        content = json.dumps(to_json(report), allow_nan=False) + "\n"
        (folder / "spectrum.json").write_text(content, encoding="utf-8")
        (folder / "spectrum.csv").write_text(comma_separated(pair_table(report)), encoding="utf-8")
        save_png(usage_figure(report.models), folder / "usage.png")
        save_png(share_figure(report.models), folder / "low_frequency.png")
        for number, made in enumerate(report.models):
            if of := [one for one in mixed if one.model == made.name]:
                name = f"mixed_{number}_{for_file_name(made.name)}.png"
                save_png(mixed_figure(of, made.section), folder / name)
    tables = [*share_tables(report), *([mixed_table(report)] if mixed else [])]
    print(printable("\n\n".join(map(text, tables))))
    for line in (*notes, f"{out}/spectrum.json"):
        log.info("%s", line)


def _check_finite(model: NamedModel, found: MeasuredSpectrum) -> None:
    """Refuses numbers that no report can hold: weights that are finite may overflow in a layer."""
    measured_N = [found.query_NHF, found.usage_NHF, found.mean_NHF, found.variance_NHF]
    odd = [~np.isfinite(x_NHF).all((1, 2)) for x_NHF in measured_N]
    if layers := np.any(odd, axis=0).nonzero()[0].tolist():
        raise UserError(
            f"--models {model.name}: in {model.args.dtype} the attention of its layers {layers} is "
            "not finite; expected a dtype in which it is, such as --dtype bfloat16 or float32"
        )


def _mixed(
    model: NamedModel, measured: MeasuredSpectrum, haystacks: ShownHaystacks, notes: list[str]
) -> list[MixedSpectrum]:
    """The student's aligned queries beside their mixtures; nothing, and a note, where the teacher
    can't be had."""
    mixings = model.mixings()
    if not mixings:
        if model.found is not None:
            notes.append(f"{model.name}: no mixtures of teacher heads, it has no alignment term")
        return []
    if (args := model.teacher) is None:
        notes.append(f"{model.name}: mixtures of teacher heads are left out: no teacher is named")
        return []
    try:
        teacher = NamedModel("teacher", args.path, args, None).load(haystacks.device)
    except UserError as reason:
        notes.append(f"{model.name}: mixtures of teacher heads are left out: {reason}")
        return []
    for mixing in mixings.values():
        mixing.to(haystacks.device)
    found = mixed_queries(teacher, haystacks.batches(model.args), mixings)
    if not all(np.isfinite(mixed_SF).all() for mixed_SF in found.values()):
        notes.append(
            f"{model.name}: mixtures of teacher heads are left out: in {args.dtype} the teacher's "
            "queries are not finite"
        )
        return []
    return [
        MixedSpectrum(
            model=model.name,
            teacher=args.path,
            student_layer=s,
            teacher_layer=t,
            overlap=round(float(np.minimum(measured.query_NHF[s], mixed_SF).sum(1).mean()), 6),
            student=nested(measured.query_NHF[s]),
            mixed=nested(mixed_SF),
        )
        for (s, t), mixed_SF in found.items()
    ]


def run(argv: list[str]) -> None:
    parser = CommandParser(prog="laid spectrum", description="Attention by rotary frequency.")
    named = "NAME=WHAT for each: a model's folder, hub id or packaged name, a run, or a checkpoint"
    parser.add_argument("--models", nargs="+", type=str, required=True, help=named)
    which = "Haystack sizes. Default: 2 10 20 where they are built, all of a source."
    source = "Haystacks to take, in place of built ones."
    parser.add_argument("--source", nargs="+", type=str, help=source)
    parser.add_argument("--sizes", nargs="+", type=int, help=which)
    parser.add_function_arguments(spectrum, skip={"models", "source", "sizes", "command"})
    spectrum(**vars(parser.parse_args(argv)), command=shlex.join(["laid", "spectrum", *argv]))
