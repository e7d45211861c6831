"""``laid look``: where models look in one haystack, as a picture and a page."""

import json
import logging
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from laid import __version__
from laid.common.command_parser import CommandParser
from laid.common.errors import UserError
from laid.common.json_codec import to_json
from laid.common.logging_setup import without_repeats
from laid.common.printable import printable
from laid.common.report_folder import report_folder
from laid.common.tables import Table, text
from laid.data.datamodule import HaystackDataModule
from laid.data.entries import HaystackEntry
from laid.data.entry_args import EvaluationArgs, PredictArgs
from laid.data.image_files import load_image
from laid.data.image_names import resolve_under, without_source
from laid.evaluation.accuracy_figures import save_png
from laid.inspection.named_models import Dtype, NamedModel, models_of_run, named_models
from laid.inspection.shown_haystacks import device_of, encoding_of
from laid.look.attention_shares import attention_shares
from laid.look.look_figures import haystack_figure, layers_figure
from laid.look.look_page import look_page
from laid.look.look_report import LookReport, ModelLook, turns_of
from laid.vlm.model_loading import ModelArgs

log = logging.getLogger(__name__)

_OF_A_REPORT = re.compile(r"look\.(json|png|html)|layers\.png")
_SOURCE = "Haystacks or conversations to take the entry from. Default: those that the run tests."
_THUMBNAIL = 200  # pixels of the longer side


@dataclass(frozen=True)
class _Shown:
    """The haystack, encoded by each model's own processor."""

    entry: str
    settings: dict[str, Any]
    asked: PredictArgs | None

    def data(self, args: ModelArgs) -> HaystackDataModule:
        data = HaystackDataModule(processor=args.path, revision=args.revision, **self.settings)
        if self.asked is not None:
            data.predict_args = self.asked
            data.setup("predict")
            data.test_entries = data.predict_entries
        else:
            data.setup("test")
            data.test_entries = data.test_entries.select([self._place(data.test_entries["id"])])
        return data

    def _place(self, ids: Sequence[str]) -> int:
        if self.entry in ids:
            return list(ids).index(self.entry)
        if self.entry.isdecimal() and int(self.entry) < len(ids):
            return int(self.entry)
        raise UserError(
            f"--entry {self.entry}: expected a number from 0 to {len(ids) - 1}, or the id of an "
            f"entry such as {ids[0]}"
        )


def look(
    out: str,
    ckpt_path: str | None = None,
    models: Sequence[str] | None = None,
    entry: str | None = None,
    images: str | None = None,
    question: str | None = None,
    coco_root: str | None = None,
    source: list[str] | None = None,
    split: str | None = None,
    sizes: list[int] | None = None,
    per_size: int | None = None,
    seed: int | None = None,
    prefix: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    heads: int = 8,
    max_new_tokens: int = 16,
    dtype: Dtype | None = None,
    device: str | None = None,
    command: str = "",
) -> None:
    """Shows where models look in one haystack.

    Its images in order, beneath each the share of the question's attention that it gets, and the
    models' answers.

    Writes look.png, look.html (one file, opens offline), layers.png and look.json. docs/look.md
    says what is shown. An earlier report in the folder is replaced when the new one is whole.

    Args:
        out: Folder to write into.
        ckpt_path: A checkpoint, a run's folder, or last: its base, student and teacher are shown.
        models: In place of it NAME=WHAT for each, as laid spectrum takes them.
        entry: Of the test entries, a number from 0 or an id.
        images: In place of an entry, a folder of images in the order of their names.
        question: What is asked about them.
        coco_root: COCO folder, or minicoco. None: as the run has it, minicoco without a run.
        source: Haystacks or conversations to take the entry from. None: as the run tests.
        split: Images of haystacks that are built. None: as the run tests.
        sizes: Haystack sizes of the test entries. None: as the run tests; all of a source.
        per_size: How many of each size. None: as the run tests; all of a source.
        seed: Seed of entries that are built. None: the run's, 0 without a run.
        prefix: Text before the question. None: the runs', that of Visual Haystacks without a run.
        min_pixels: Images with fewer pixels are enlarged. None: as the runs have it.
        max_pixels: Images with more pixels are reduced. None: as the runs have it.
        heads: How many of a model's heads count as its sharpest; all, where it has fewer.
        max_new_tokens: Of the answers.
        dtype: Of the weights. None: a run's own, float32 for other models.
        device: Such as cpu or cuda:0. None: the first GPU if there is one.

    Raises:
        UserError: no such model, entry or image; contradicting options; the haystack has no image.
    """
    if (ckpt_path is None) == (models is None):
        raise UserError("say which models: either --ckpt_path RUN or --models NAME=WHAT …")
    if heads < 1 or max_new_tokens < 1:
        raise UserError(
            f"--heads {heads}, --max_new_tokens {max_new_tokens}: expected at least 1 of each"
        )
    if (images is None) != (question is None) or question == "":
        raise UserError(
            "--images FOLDER and --question TEXT belong together: give both, or --entry"
        )
    asked = None if images is None else PredictArgs(None, images, question)
    if (entry is None) == (asked is None):
        raise UserError("say what is shown: either --entry N, or --images FOLDER --question TEXT")
    typed_entries = {"source": source, "split": split, "sizes": sizes, "per_size": per_size}
    if asked is not None:
        of_entries = {**typed_entries, "coco_root": coco_root, "seed": seed}
        given = [f"--{k}" for k, v in of_entries.items() if v is not None]
        if given:
            raise UserError(f"{given[0]} is of entries; leave it or --images and --question out")
    chosen = models_of_run(ckpt_path, dtype) if ckpt_path else named_models(models or [], dtype)
    encoding, notes = encoding_of(
        chosen, {"prefix": prefix, "min_pixels": min_pixels, "max_pixels": max_pixels}
    )
    settings = settings_of(_of_run(chosen), {"coco_root": coco_root, "seed": seed}, typed_entries)
    settings |= encoding
    shown = _Shown(entry or "", settings, asked)
    with report_folder(out, _OF_A_REPORT) as folder, without_repeats():
        looks: list[ModelLook] = []
        for model in chosen:
            try:
                data = shown.data(model.args)
                looks.append(_look(model, data, heads, max_new_tokens, device_of(device)))
            except UserError as reason:
                if not (ckpt_path and model.name != "student"):
                    raise
                notes.append(f"{model.name} is left out: {reason}")
        # All models are shown the same entry.
        one = HaystackEntry.of(data.test_entries[0])
        pictures = [load_image(resolve_under(data.root, name)) for name in one.images]
        for picture in pictures:
            picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        *earlier, (_, question) = turns_of(one)
        report = LookReport(
            command=command,
            laid_version=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            entry=one.id,
            question=question,
            earlier=earlier,
            expected=one.answer,
            images=[without_source(name) if one.source else name for name in one.images],
            needles=list(one.needles),
            heads=heads,
            models=looks,
            notes=notes,
        )
        _write(folder, report, pictures)
    print(printable(text(_table(report))))
    for line in (*notes, str(Path(out, "look.html"))):
        log.info("%s", line)


def settings_of(
    run: dict[str, Any], typed: dict[str, Any], of_entries: dict[str, Any]
) -> dict[str, Any]:
    """Settings of the data module: as typed, else as the run has them; what a run says of its own
    sources is not taken for others.

    Args:
        run: its settings of the data.
        typed: some of these; None where one is not typed. ``of_entries``: likewise of ``test``.
    """
    test, image_root = run.get("test") or {}, run.get("image_root")
    if of_entries["source"] is not None:
        test, image_root = {}, None
    elif of_entries["split"] is not None:
        test = test | {"source": None, "scoring": None}
    typed, of_entries = (
        {key: value for key, value in given.items() if value is not None}
        for given in (typed, of_entries)
    )
    args = EvaluationArgs(**test | of_entries)
    return {**run, "image_root": image_root, **typed, "test": args}


def _of_run(models: Sequence[NamedModel]) -> dict[str, Any]:
    """What the first run among the models says of its test entries; nothing without a run."""
    data: dict[str, Any] = next((m.found.config["data"] for m in models if m.found is not None), {})
    keys = ("coco_root", "seed", "needles", "min_area", "max_length", "image_root", "test")
    return {key: data[key] for key in keys if data.get(key) is not None}


def _look(
    model: NamedModel,
    data: HaystackDataModule,
    heads: int,
    max_new_tokens: int,
    device: torch.device,
) -> ModelLook:
    vlm = model.load(device)
    (batch,) = data.probe(data.test_entries, device, with_answer=False)
    if not batch.inputs.images:
        raise UserError(f"entry {batch.entries[0].id} has no image to look at")
    found = attention_shares(vlm, batch.inputs, heads)
    ids_BT = vlm.answer(batch.inputs, max_new_tokens)
    (answer,) = data.encoder.processor.tokenizer.batch_decode(ids_BT, skip_special_tokens=True)
    return ModelLook(
        name=model.name,
        what=model.what,
        answer=answer.strip(),
        sharp=_rounded(found.sharp_I),
        mean=_rounded(found.layer_NI.mean(0)),
        layers=[_rounded(layer_I) for layer_I in found.layer_NI],
        sharp_heads=[list(head) for head in found.sharp_heads],
    )


def _rounded(share_I: torch.Tensor) -> list[float]:
    return [round(share, 6) for share in share_I.tolist()]


def _write(folder: Path, report: LookReport, pictures: Sequence[Image.Image]) -> None:
    content = json.dumps(to_json(report), allow_nan=False) + "\n"
    (folder / "look.json").write_text(content, encoding="utf-8")
    save_png(layers_figure(report), folder / "layers.png")
    save_png(haystack_figure(report, pictures), folder / "look.png")
    page = look_page(report, pictures, (folder / "layers.png").read_bytes())
    (folder / "look.html").write_text(page, encoding="utf-8")


def _table(report: LookReport) -> Table:
    needles = ["on the needle"] if report.needles else []
    rows = []
    for model in report.models:
        first = max(range(len(model.sharp)), key=model.sharp.__getitem__)
        on = [f"{100 * sum(model.sharp[at] for at in report.needles):.0f}%"] if needles else []
        share = f"{first + 1} ({100 * model.sharp[first]:.0f}%)"
        rows.append([model.name, model.answer, *on, share])
    expected = [f"expected answer: {report.expected}"] if report.expected else []
    header = ["model", "answer", *needles, "most on image"]
    return Table("look", report.question, header, rows, expected)


def run(argv: list[str]) -> None:
    parser = CommandParser(prog="laid look", description="Where models look in one haystack.")
    named = "NAME=WHAT for each: a model's folder, hub id or packaged name, a run, or a checkpoint"
    parser.add_argument("--models", nargs="+", type=str, help=named)
    parser.add_argument("--source", nargs="+", type=str, help=_SOURCE)
    parser.add_argument("--sizes", nargs="+", type=int, help="Haystack sizes of the test entries.")
    parser.add_function_arguments(look, skip={"models", "source", "sizes", "command"})
    look(**vars(parser.parse_args(argv)), command=shlex.join(["laid", "look", *argv]))
