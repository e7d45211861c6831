"""A student as a plain Hugging Face folder."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, Qwen2_5_VLForConditionalGeneration

from laid.common.errors import UserError
from laid.distributed.sharded_tensors import first_not_finite
from laid.vlm.model_loading import ModelArgs, load_config
from laid.vlm.model_paths import resolve_model
from laid.vlm.processor import ImageTextProcessor


def write_model(
    folder: Path, args: ModelArgs, state: dict[str, Tensor], dtype: torch.dtype | None
) -> None:
    """Writes config.json, generation_config.json and the weights as safetensors.

    Args:
        args: the model that the state belongs to; only its configuration is read.
        state: parameters by transformers' own names.
        dtype: number format to write; None keeps the state's.

    Raises:
        UserError: the state is not that of such a model.
    """
    config = load_config(args)
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.float32)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as reason:
        raise UserError(f"the checkpoint's student is not a {args.path!r}: {reason}") from reason
    model.tie_weights()
    if dtype is not None:
        # Parameters only: the rotary frequencies of the folder's reader are made anew anyway.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
    if (name := first_not_finite(model.named_parameters())) is not None:
        raise UserError(
            f"{name} holds a NaN or an infinity"
            + (f" as {dtype}: its range may be too small" if dtype is not None else "")
            + "; nothing is written"
        )
    model.config.dtype = next(model.parameters()).dtype
    # A folder may have none, as the tiny ones: then it is what transformers derives from config.
    with suppress(OSError):
        model.generation_config = GenerationConfig.from_pretrained(resolve_model(args.path))
    model.save_pretrained(folder)
    _describe_rope_for_version_4(folder / "config.json")


def write_processor(folder: Path, processor: ImageTextProcessor) -> None:
    """Writes tokenizer, chat template and the preprocessor_config.json of Qwen2.5-VL."""
    processor.tokenizer.save_pretrained(folder)
    _name_special_tokens_for_version_4(folder / "tokenizer_config.json")
    images = processor.image_processor
    content = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": images.size["shortest_edge"],
        "max_pixels": images.size["longest_edge"],
        "patch_size": images.patch_size,
        "temporal_patch_size": images.temporal_patch_size,
        "merge_size": images.merge_size,
        "image_mean": list(images.image_mean),
        "image_std": list(images.image_std),
    }
    _write_json(folder / "preprocessor_config.json", content)


def _describe_rope_for_version_4(path: Path) -> None:
    """transformers 4 reads the rotary settings under other keys than 5 writes; give both."""
    config = json.loads(path.read_text(encoding="utf-8"))
    text = config["text_config"]
    rope = text["rope_parameters"]
    text["rope_theta"] = rope["rope_theta"]
    kind = rope["rope_type"]
    text["rope_scaling"] = {
        **{key: value for key, value in rope.items() if key != "rope_theta"},
        "type": "mrope" if kind == "default" else kind,
    }
    _write_json(path, config)


def _name_special_tokens_for_version_4(path: Path) -> None:
    """transformers 4 knows a list of special tokens by another name, which 5 reads too; under the
    name that 5 writes it expects a dictionary and fails."""
    config = json.loads(path.read_text(encoding="utf-8"))
    tokens = config.pop("extra_special_tokens", None)
    if tokens:
        config["additional_special_tokens"] = tokens
    for key in ("is_local", "local_files_only"):  # of the loading, not of the tokenizer
        config.pop(key, None)
    _write_json(path, config)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
