"""A tiny student and teacher of every family, with random weights.

    python tests/vlm/families/tiny_pairs.py FOLDER

writes them into FOLDER/MODEL_TYPE.
"""

import argparse
from pathlib import Path

import torch
from tiny_families import CASES

from laid.miniature.tiny_models import tiny_model, write_tiny
from laid.vlm.families.family import Family
from laid.vlm.processor import ImageTextProcessor

SHAPES = {
    "student": {"layers": 2, "heads": 4, "kv_heads": 2},
    "teacher": {"layers": 3, "heads": 6, "kv_heads": 3},
}


def write_pair(family: type[Family], root: Path) -> tuple[Path, Path]:
    """Folders of a student and a teacher with weights; heads and layers differ."""
    stock = CASES[family].processor()
    for seed, (name, shape) in enumerate(SHAPES.items()):
        config = CASES[family].config(stock.tokenizer, **shape)
        write_tiny(root / name, config, ImageTextProcessor(family(config), stock))
        torch.manual_seed(seed)
        model = tiny_model(config)
        with torch.no_grad():  # a new norm does nothing
            for name_of, parameter in model.named_parameters():
                if "q_norm" in name_of or "k_norm" in name_of:
                    parameter.add_(torch.empty_like(parameter).uniform_(-0.5, 1))
                if "mm_input_projection" in name_of:  # a new one is 0
                    parameter.normal_(std=0.3)
        model.save_pretrained(root / name)
    return root / "student", root / "teacher"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for each in CASES:
        print(*write_pair(each, folder / each.model_type))
