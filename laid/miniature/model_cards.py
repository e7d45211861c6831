"""A trained model as a Hugging Face folder with a model card (README.md)."""

from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from laid.common.atomic_files import atomic_dir
from laid.evaluation.wilson import wilson_interval
from laid.miniature.accuracy_check import measure
from laid.miniature.packaged_models import PACKAGED, packaged_config, packaged_processor
from laid.miniature.recipes import TinyRecipe, TowerRecipe
from laid.miniature.tiny_models import write_tiny
from laid.minicoco.drawing import ensure_minicoco
from laid.vlm.export_marker import check_replaceable, mark_export
from laid.vlm.families.registry import FAMILIES
from laid.vlm.hf_folder import write_model
from laid.vlm.model_loading import ModelArgs

TEST_SPLIT = "test2017"
TEST_SEED = 20_000

_TEMPLATE = (files("laid.miniature") / "model_card.txt").read_text("utf-8")
_KINDS = {
    "student": "The student that distillation starts from: it answers on a few images.",
    "student-positions": "The student, trained further on 1 to 4 images at random places of "
    "haystacks of up to 155: its window ends by distractors alone. The stages before are in the "
    "card of student.",
    "teacher": "The teacher: the student grown by one layer, trained on long haystacks.",
    "teacher-independent": "A teacher that shares no weight with the student: its own vision "
    "tower, words and base.",
}


@dataclass(frozen=True)
class Card:
    """What a model's card says of its training.

    Attributes:
        stages: the results of the model's stages, by name, in order; the last has the weights.
    """

    command: str
    recipe: TinyRecipe
    stages: dict[str, dict[str, Any]]
    family: str = PACKAGED


def write_folder(out: Path, name: str, card: Card) -> None:
    """Writes model, processor and card into ``out / name``, measured with the weights as written,
    in bfloat16.

    The folder appears when it is complete, and replaces one of that name.
    """
    processor = packaged_processor(card.family)
    *_, last = card.stages.values()
    with atomic_dir(out / name, _replaces) as folder:
        write_tiny(folder, packaged_config(name, processor), processor)
        write_model(folder, ModelArgs(str(folder)), last["model"], torch.bfloat16)
        sizes, n = card.recipe.test_sizes, card.recipe.test_per_size
        accuracy = measure(folder, ensure_minicoco(), TEST_SPLIT, sizes, n, TEST_SEED)
        parameters = sum(value.numel() for value in last["model"].values())
        text = render(name, card, accuracy, parameters)
        (folder / "README.md").write_text(text, encoding="utf-8")
        mark_export(folder, card.command)


def _replaces(there: Path) -> bool:
    check_replaceable(there, [Path.cwd()])
    return True


def render(name: str, card: Card, accuracy: dict[int, float], parameters: int) -> str:
    """The text of README.md; ``accuracy`` by haystack size, of ``test_per_size`` answers each."""
    rows, stages, seconds, n = [], [], 0.0, card.recipe.test_per_size
    for size, share in accuracy.items():
        low, high = wilson_interval(round(share * n), n)
        rows.append(f"| {size} | {share:.1%} | {low:.1%} to {high:.1%} | {n} |")
    for stage, result in card.stages.items():
        own = getattr(card.recipe, stage)
        settings = ", ".join(f"{key} {value}" for key, value in asdict(own).items())
        if isinstance(own, TowerRecipe):
            done = f"the set of objects exact for {result['exact']:.1%} of held-out images"
        else:
            begun = zip(own.sizes, result["begun"], strict=False)
            sizes = ", ".join(f"{size} images from step {step}" for size, step in begun)
            done = f"{result['steps']} steps; {sizes}"
        stages.append(f"- {stage} ({result['seconds'] / 60:.1f} minutes; {settings}): {done}.")
        seconds += result["seconds"]
    return _TEMPLATE.format(
        name=name,
        kind=_KINDS[name],
        model_class=FAMILIES[card.family].model_class.__name__,
        parameters=parameters,
        entries=n * len(accuracy),
        split=TEST_SPLIT,
        seed=TEST_SEED,
        rows="\n".join(rows),
        command=card.command,
        minutes=seconds / 60,
        recipe=card.recipe,
        stages="\n".join(stages),
    )
