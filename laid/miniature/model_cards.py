"""A trained model as a Hugging Face folder with a README.md that says what it is."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from laid.common.atomic_files import atomic_dir
from laid.data.coco_index import CocoIndex
from laid.evaluation.results import wilson_interval
from laid.miniature.accuracy_check import entries_for, measure
from laid.miniature.haystack_layout import Writer
from laid.miniature.image_pool import Pool
from laid.miniature.packaged_models import packaged_config, packaged_processor
from laid.miniature.tiny_models import write_tiny
from laid.miniature.tower_training import TOKENS
from laid.minicoco.drawing import ensure_minicoco
from laid.vlm.export_marker import check_replaceable, mark_export
from laid.vlm.hf_folder import write_model
from laid.vlm.model_loading import ModelArgs

TEST_SPLIT = "test2017"
TEST_SEED = 20_000

_KINDS = {
    "student": "The student that distillation starts from: it answers on a few images.",
    "teacher": "The teacher: the student grown by one layer, trained on long haystacks.",
    "teacher-independent": (
        "A teacher that shares no weight with the student: its own vision tower, words and base."
    ),
}


@dataclass(frozen=True)
class Card:
    """What a model's README.md says, and the results that its weights come from.

    Attributes:
        seed: of the command.
        command: that made the model.
        recipe: the recipe of each stage it went through, in order.
        images, held_out: of the drawn pool.
        results: of each stage.
        test_per_size, test_sizes: what it is measured with.
    """

    seed: int
    command: str
    recipe: dict[str, Any]
    images: int
    held_out: int
    results: dict[str, dict[str, Any]]
    test_per_size: int
    test_sizes: tuple[int, ...]


def write_folder(out: Path, name: str, card: Card, dtype: torch.dtype = torch.bfloat16) -> None:
    """Writes model, processor and card into ``out / name``, measured with the weights as written.

    The folder appears when it is complete, in the place of one that may be there.
    """
    processor = packaged_processor()
    config = packaged_config(name, processor)
    state = {key: value.to(dtype) for key, value in _weights(card).items()}
    model = Qwen2_5_VLForConditionalGeneration._from_config(
        config, dtype=torch.float32, attn_implementation="sdpa"
    )
    model.load_state_dict(state)
    root = ensure_minicoco()
    pool = Pool.load(root, TEST_SPLIT)
    index = CocoIndex.load(root, TEST_SPLIT)
    entries = entries_for(index, card.test_per_size, TEST_SEED, card.test_sizes)
    counts = measure(model, pool, entries, Writer(processor, pool.categories, TOKENS))
    size = sum(parameter.numel() for parameter in model.parameters())
    text = render(name, card, counts, size, str(dtype).removeprefix("torch."))
    with atomic_dir(out / name, _replaces) as folder:
        write_tiny(folder, packaged_config(name, processor), processor)
        write_model(folder, ModelArgs(path=str(folder)), state, dtype)
        (folder / "model.safetensors").chmod(0o644)  # safetensors leaves it to the owner alone
        (folder / "README.md").write_text(text, encoding="utf-8")
        mark_export(folder, card.command)


def _replaces(there: Path) -> bool:
    check_replaceable(there, [Path.cwd()])
    return True


def _weights(card: Card) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = list(card.results.values())[-1]["model"]
    return weights


def render(
    name: str, card: Card, counts: dict[int, tuple[int, int]], parameters: int, dtype: str
) -> str:
    """The text of README.md; ``counts`` is (correct, n) by haystack size."""
    rows = []
    for size, (correct, n) in counts.items():
        low, high = wilson_interval(correct, n)
        rows.append(f"| {size} | {correct / n:.1%} | {low:.1%} to {high:.1%} | {n} |")
    seconds = sum(result["seconds"] for result in card.results.values())
    lines = [
        "---",
        "license: apache-2.0",
        "---",
        f"# laid tiny/{name}",
        "",
        _KINDS[name],
        "",
        f"Qwen2_5_VLForConditionalGeneration with {parameters:,} parameters, written as {dtype}. "
        "It knows the questions of one needle of Visual Haystacks, without a prefix, about the 24 "
        "categories of laid's drawn mini-COCO (56 x 56 pixels, 4 visual tokens an image), and "
        "nothing else. For tests and for experiments in small; no use beyond.",
        "",
        "## Accuracy",
        "",
        f"On {sum(n for _, n in counts.values())} entries of laid's own builder from images that "
        f"no training saw (mini-COCO of seed 0, {TEST_SPLIT}; entries of seed {TEST_SEED}); the "
        "interval is Wilson's, 95%.",
        "",
        "| images | accuracy | interval | n |",
        "|---|---|---|---|",
        *rows,
        "",
        "## Training",
        "",
        f"`{card.command}`: {seconds / 60:.0f} minutes of the stages below, one thread each.",
        "",
        f"Data: {card.images} drawn images, and {card.held_out} held out for the tower.",
        "",
        *(_describe(stage, card) for stage in card.results),
        "",
    ]
    return "\n".join(lines)


def _describe(stage: str, card: Card) -> str:
    result = card.results[stage]
    settings = ", ".join(f"{key} {value}" for key, value in asdict(card.recipe[stage]).items())
    minutes = result["seconds"] / 60
    if "exact" in result:
        made = f"the set of objects exact for {result['exact']:.1%} of held-out images"
    else:
        begun = ", ".join(f"{size} images from step {step}" for step, size in result["log"])
        made = f"{result['steps']} steps; {begun}"
    return f"- {stage} ({minutes:.1f} minutes; {settings}): {made}."
