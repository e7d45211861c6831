"""What the package's tiny models are, weights apart: ``laid pretrain tiny`` trains them."""

from transformers import Qwen2_5_VLConfig

from laid.data.coco_names import COCO_NAMES
from laid.data.entries import MODES, ask
from laid.data.prompt import PREFIX
from laid.miniature.tiny_models import tiny_config, tiny_processor
from laid.vlm.processor import ImageTextProcessor

LAYERS = {"student": 3, "student-positions": 3, "teacher": 4, "teacher-independent": 4}
"""The package's models, and the layers of their decoders."""


def corpus() -> list[str]:
    """Every word that a haystack's text can have, as it stands in it."""
    turns = ["<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n", "Yes", "No"]
    pairs = zip(COCO_NAMES, reversed(COCO_NAMES), strict=True)
    questions = [ask(anchor, target, mode) for anchor, target in pairs for mode in MODES]
    return turns + questions + [PREFIX + question for question in questions]


def packaged_processor() -> ImageTextProcessor:
    """Tokenizer and image processor, the same for all of the package's models."""
    return tiny_processor(corpus())


def packaged_config(name: str, processor: ImageTextProcessor) -> Qwen2_5_VLConfig:
    """The configuration of one of ``LAYERS``."""
    layers = LAYERS[name]
    return tiny_config(processor.tokenizer, layers=layers, heads=4, kv_heads=2, vision_layers=3)
