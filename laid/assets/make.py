"""Writes the package's tiny models: ``python -m laid.assets.make``.

Configuration, tokenizer and processor of ``tiny/student`` and ``tiny/teacher``; the same files on
every machine, as a test sees to.
"""

from pathlib import Path

from laid.data.coco_names import COCO_NAMES
from laid.data.entries import MODES, ask
from laid.data.prompt import PREFIX
from laid.vlm.tiny import tiny_config, tiny_processor, write_tiny

HERE = Path(__file__).parent


def corpus() -> list[str]:
    """Every word that a haystack's text can have, as it stands in it."""
    turns = ["<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n", "Yes", "No"]
    pairs = zip(COCO_NAMES, reversed(COCO_NAMES), strict=True)
    questions = [ask(anchor, target, mode) for anchor, target in pairs for mode in MODES]
    return turns + questions + [PREFIX + question for question in questions]


def make(folder: Path = HERE / "tiny") -> None:
    """Writes ``student`` and ``teacher`` into ``folder``."""
    processor = tiny_processor(corpus())
    for name, layers in (("student", 3), ("teacher", 4)):
        config = tiny_config(processor.tokenizer, layers=layers, heads=4, kv_heads=2)
        write_tiny(folder / name, config, processor)


if __name__ == "__main__":
    make()
