"""Writes the independent tiny teacher with heads of twice the head_dim: the same function.

    python benchmarks/wider_teacher.py FOLDER

What is added is zeros. Rotary pair f becomes pair 2f, which turns by the same angle in a head of
twice the head_dim, and each section of M-RoPE doubles. RMSNorm then sees twice as many numbers of
half the mean square, and logits are divided by a square root twice as large; weights make up for
both.
"""

import copy
import sys
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from laid.miniature.tiny_models import write_tiny
from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import ModelArgs, load_model
from laid.vlm.processor import ProcessorArgs, load_processor

TEACHER = "tiny/teacher-independent"
HEADS_FIRST, HEADS_LAST = ("q_proj", "k_proj", "v_proj"), ("o_proj",)
"""Layers whose outputs, or inputs, are those of heads, number by number."""


@torch.no_grad()
def widened(narrow: PreTrainedModel) -> PreTrainedModel:
    """The model with hidden size and head_dim doubled and as many heads."""
    config = copy.deepcopy(narrow.config)
    text, vision = config.text_config, config.vision_config
    text.hidden_size *= 2
    vision.out_hidden_size *= 2
    text.rms_norm_eps /= 2
    rope = text.rope_parameters
    rope["mrope_section"] = [2 * pairs for pairs in rope["mrope_section"]]
    wide = family_of(config).model_class._from_config(config, dtype=torch.float32)
    for name, target in wide.named_parameters():
        source = narrow.get_parameter(name)
        factor = _factor(name) if source.shape != target.shape else 1.0
        target.zero_()[_places(name, source, target)] = source * factor
    return wide


def _places(name: str, source: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Where the numbers of a parameter go."""
    layer = name.rpartition(".")[0]
    heads = [layer.endswith(HEADS_FIRST), layer.endswith(HEADS_LAST)]
    at = [
        torch.arange(was) * (2 if of_heads and is_ != was else 1)
        for was, is_, of_heads in zip(source.shape, target.shape, heads, strict=False)
    ]
    return torch.meshgrid(*at, indexing="ij")


def _factor(name: str) -> float:
    if "norm" in name:
        return 2**-0.5
    return 2**0.5 if "q_proj" in name else 1.0


def main(out: Path) -> None:
    """Writes the folder."""
    model = widened(load_model(ModelArgs(TEACHER)))
    write_tiny(out, model.config, load_processor(ProcessorArgs(TEACHER)))
    model.save_pretrained(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
