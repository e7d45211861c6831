"""The model card of an export: README.md, with the figure of its results."""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from laid import __version__
from laid.checkpoints.runs import Found
from laid.common.errors import UserError
from laid.common.printable import code, for_markdown
from laid.common.tables import Cell, Table, markdown
from laid.data.entries import ask
from laid.data.entry_args import BUILT, TRAIN_ENTRIES
from laid.evaluation.accuracy_figures import accuracy_figure, save_png
from laid.evaluation.accuracy_table import asked_text, interval_text, percent
from laid.evaluation.records import RESULTS, SOURCES
from laid.evaluation.results import Results, read_results, titled
from laid.sharing.hub_push import REPOSITORY
from laid.training.objective import ObjectiveArgs
from laid.vlm.export_marker import CARD
from laid.vlm.model_paths import card_metadata, hub_id

log = logging.getLogger(__name__)

FIGURE = "accuracy_by_size.png"
_TEMPLATE = (files("laid.sharing") / "export_card.txt").read_text("utf-8")
_LICENSE = ("license", "license_name", "license_link")


def write_card(folder: Path, found: Found, model_class: str, dtype: str) -> None:
    """Writes the card, and the figure where there are results, into the folder of an export.

    Nothing in it is guessed: a base model that is no model of the hub is not named as one, and the
    license is the base model's own where its card states one.

    Args:
        found: the checkpoint that was exported.
        model_class: transformers' class of the model.
        dtype: of the weights as written.
    """
    results = results_of(found)
    if results:
        save_png(accuracy_figure([of.summary for of in results]), folder / FIGURE)
    (folder / CARD).write_text(render(found, results, model_class, dtype), encoding="utf-8")


def results_of(found: Found) -> list[Results]:
    """The results of this very checkpoint, in its run's folder, the folders beside it and those in
    them, and in ``sources/`` of each; the name of one of a source ends with it. Those of another
    checkpoint of the run are left out, and those with a window extension, which the exported folder
    does not have."""
    own = found.run / RESULTS
    runs = found.run.parent
    folders = ("*", "*/*", f"*/{SOURCES}/*", f"*/*/{SOURCES}/*")
    beside = sorted(path for of in folders for path in runs.glob(f"{of}/{RESULTS}"))
    known = []
    for path in dict.fromkeys([*([own] if own.exists() else []), *beside]):
        try:
            results = read_results(path)
        except UserError as reason:
            log.warning("the model card is without %s: %s", path, reason)
            continue
        tested = results.tested
        same = tested.checkpoint and tested.checkpoint.get("id") == found.identity.get("id")
        if same and not tested.window:
            if path.parents[1].name == SOURCES:
                name = titled(f"{results.name}, {path.parent.name}", results.scoring)
                results = replace(results, name=name)
            known.append(results)
    return known


def render(found: Found, results: Sequence[Results], model_class: str, dtype: str) -> str:
    model, data = found.config["model"], found.config["data"]
    base, revision = model["student"]["path"], model["student"]["revision"]
    of_base = {key: value for key, value in card_metadata(base, revision).items() if value}
    license_ = {key: of_base[key] for key in _LICENSE if key in of_base}
    sources = (of.removeprefix("hf:").partition(":")[0] for of in _sources(data["train"]))
    hub = hub_id(base)
    metadata = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        **({"base_model": hub, "base_model_relation": "finetune"} if hub else {}),
        **({"datasets": d} if (d := list(filter(_is_dataset, sources))) else {}),
        **license_,
        "tags": ["laid", "distillation", "long-context"],
    }
    stated = (
        f"{code(str(license_['license']))}, as the card of the base model states it."
        if "license" in license_
        else "not stated: no license was found in a card of the base model. State one before "
        "you publish this model."
    )
    return _TEMPLATE.format(
        metadata=yaml.safe_dump(metadata, sort_keys=False).strip(),
        name=for_markdown(found.run.name),
        base=_shown(base, revision),
        results=_results(results),
        settings="\n".join(f"| {key} | {value} |" for key, value in _settings(found)),
        license=stated,
        model_class=model_class,
        question=data["prefix"] + ask("dog", "cat", "single"),
        max_new_tokens=model["max_new_tokens"],
        dtype=dtype,
        version=__version__,
    )


def _results(results: Sequence[Results]) -> str:
    if not results:
        return (
            "This checkpoint has not been tested with `laid test`: there are no results to show.\n"
        )
    parts = []
    for of in results:
        rows: list[list[Cell | str]] = [
            [str(size), percent(cell.accuracy), interval_text(cell.interval), asked_text(cell)]
            for size, cell in of.by_size.items()
        ]
        title = f"Accuracy by haystack size: {of.name}"
        precision = of.identity.get("precision", "unknown")
        if precision == "None":  # as identities have Lightning's default
            precision = "32-true"
        notes = [
            "Accuracy in percent; interval: Wilson's, 95%; n: entries asked. Tested before the "
            f"export, in precision {precision}, by laid {of.laid_version} on {of.created}. It is "
            "one trained model: the intervals say nothing of the spread between training seeds."
        ]
        header = ["images", "accuracy", "interval", "n"]
        parts.append(markdown(Table("accuracy", title, header, rows, notes)).replace("## ", "### "))
    return "\n".join([*parts, f"![Accuracy by haystack size, with 95% intervals]({FIGURE})\n"])


def _settings(found: Found) -> Iterable[tuple[str, str]]:
    """What decides what was learned, in the order a reader asks for it."""
    model, data = found.config["model"], found.config["data"]
    trainer, optimizer = found.config.get("trainer") or {}, model["optimizer"]
    student, teacher = model["student"], model.get("teacher")
    yield "student before training", _shown(student["path"], student["revision"])
    yield "teacher", _shown(teacher["path"], teacher["revision"]) if teacher else "none"
    objective = model.get("objective") or asdict(ObjectiveArgs())
    terms = {name: of for name, of in objective.items() if of and of.get("weight")}
    yield "objective", code(" + ".join(f"{of['weight']:g} {name}" for name, of in terms.items()))
    for name, of in terms.items():
        if others := _listed(of, [key for key in of if key != "weight"]):
            yield f"`{name}`", code(others)
    yield "trained weights", _trained(model)
    gain_lr = ["gain_lr"] if model.get("rope_gain") else []
    rates = ["student_lr", "lora_lr", *gain_lr, "mixing_lr"]
    rates += ["weight_decay", "warmup_ratio", "schedule"]
    yield "AdamW", code(_listed(optimizer, rates))
    batch = data["global_batch_size"]
    yield "steps", f"{found.identity['step']:,} of {batch} haystacks"
    yield "precision", code(str(trainer.get("precision") or "32-true"))
    yield "training entries", "; ".join(_entries(data))
    yield "seeds", f"training {found.config.get('seed_everything')}, data {data['seed']}"


def _sources(train: dict[str, Any]) -> dict[str, float]:
    """The weight of each source of training entries."""
    return train.get("mixture") or {train.get("source") or BUILT: 1.0}


def _entries(data: dict[str, Any]) -> Iterable[str]:
    train, sources = data["train"], _sources(data["train"])
    for source, weight in sources.items():
        share = f"{weight:g} of " if len(sources) > 1 else ""
        if source != BUILT:
            yield share + _shown(source)
            continue
        images = f"{train['min_size']} to {train['max_size']} images"
        of = f"{code(train['split'])} of {_shown(str(data['coco_root']))}"
        yield f"{share}{train['entries'] or TRAIN_ENTRIES:,} haystacks of {images}, built from {of}"


def _listed(settings: dict[str, Any], keys: Iterable[str]) -> str:
    return ", ".join(f"{key} {settings[key]}" for key in keys if settings.get(key) is not None)


def _trained(model: dict[str, Any]) -> str:
    gains = ", and RoPE response gains, folded into them" if model.get("rope_gain") else ""
    if lora := model.get("lora"):
        return f"LoRA adapters of rank {lora['rank']}, merged into the weights{gains}"
    parts = "decoder" if model["student"].get("freeze_vision") else "decoder and vision tower"
    return parts + gains


def _shown(path: str, revision: str | None = None) -> str:
    """A model or source by its public name: of a local path the last part, which is all that
    others can make use of."""
    if os.path.isabs(path) or Path(path).exists():
        return f"{code(Path(path).name)} (local)"
    return code(path + (f" at {revision}" if revision else ""))


def _is_dataset(source: str) -> bool:
    is_file = Path(source).exists() or Path(source).suffix in (".json", ".jsonl")
    return not is_file and bool(REPOSITORY.fullmatch(source))
