"""What the tiny models are, weights apart: ``laid pretrain tiny`` trains them."""

from collections.abc import Callable
from functools import partial

from laid.data.coco_names import COCO_NAMES
from laid.data.entries import MODES, ask
from laid.data.prompt import PREFIX
from laid.miniature.tiny_models import tiny_config, tiny_processor
from laid.miniature.tiny_qwen3_vl import tiny_qwen3_vl
from laid.vlm.families.family import Config
from laid.vlm.processor import ImageTextProcessor

LAYERS = {"student": 3, "student-positions": 3, "teacher": 4, "teacher-independent": 4}
"""The package's models, and the layers of their decoders."""
PACKAGED = "qwen2_5_vl"
"""The family of the package's models."""
CONFIGS: dict[str, Callable[..., Config]] = {
    PACKAGED: tiny_config,
    "qwen3_vl": partial(tiny_qwen3_vl, patch_size=14),  # a drawn image is 4 x 4 such patches
}
"""What makes tiny configurations, by ``model_type``."""


def corpus() -> list[str]:
    """Every word that a haystack's text can have, as it stands in it."""
    turns = ["<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n", "Yes", "No"]
    pairs = zip(COCO_NAMES, reversed(COCO_NAMES), strict=True)
    questions = [ask(anchor, target, mode) for anchor, target in pairs for mode in MODES]
    return turns + questions + [PREFIX + question for question in questions]


def packaged_processor(family: str = PACKAGED) -> ImageTextProcessor:
    """Tokenizer and image processor, the same for all tiny models of a family."""
    return tiny_processor(corpus(), CONFIGS[family])


def packaged_config(name: str, processor: ImageTextProcessor) -> Config:
    """The configuration of one of ``LAYERS``, of the processor's family."""
    make = CONFIGS[processor.family.model_type]
    return make(processor.tokenizer, layers=LAYERS[name], heads=4, kv_heads=2, vision_layers=3)
