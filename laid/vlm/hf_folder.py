"""A student as a plain Hugging Face folder."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from laid.common.errors import UserError
from laid.distributed.sharded_tensors import first_not_finite
from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import ModelArgs, end_tokens, load_config
from laid.vlm.model_paths import resolve_model
from laid.vlm.processor import ImageTextProcessor


def write_model(
    folder: Path, args: ModelArgs, state: dict[str, Tensor], dtype: torch.dtype | None
) -> tuple[str, str]:
    """Writes config.json, generation_config.json (greedy answers) and the weights as safetensors.

    Args:
        args: the model that the state belongs to; only its configuration is read.
        state: parameters by transformers' own names.
        dtype: of the weights as written; None keeps the state's.

    Returns:
        The name of the model's class, and the dtype of the weights as written.

    Raises:
        UserError: the state is not that of such a model.
    """
    config = load_config(args)
    family = family_of(config)
    with torch.device("meta"):
        model = family.model_class._from_config(config, dtype=torch.float32)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as reason:
        raise UserError(f"the checkpoint's student is not a {args.path!r}: {reason}") from reason
    model.tie_weights()
    if dtype is not None:
        # Parameters only: the rotary frequencies of the folder's reader are computed again anyway.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
    if (name := first_not_finite(model.named_parameters())) is not None:
        raise UserError(
            f"{name} holds a NaN or an infinity"
            + (f" as {dtype}: its range may be too small" if dtype is not None else "")
            + "; nothing is written"
        )
    model.config.dtype = next(model.parameters()).dtype
    model.generation_config = _greedy(args, model)
    model.save_pretrained(folder)
    path = folder / "config.json"
    for weights in folder.glob("*.safetensors"):  # safetensors' own mode keeps others from reading
        shutil.copymode(path, weights)
    _write_json(path, family.for_version_4(json.loads(path.read_text(encoding="utf-8"))))
    return family.model_class.__name__, str(model.config.dtype).removeprefix("torch.")


def _greedy(args: ModelArgs, model: PreTrainedModel) -> GenerationConfig:
    """Answers as `laid test` has them: those of the hub's models are drawn, or penalise words that
    the question has. The ends of an answer are kept."""
    known = model.generation_config
    # A folder may have none: then it is what transformers derives from config.json.
    with suppress(OSError):
        known = GenerationConfig.from_pretrained(resolve_model(args.path), revision=args.revision)
    return GenerationConfig(
        bos_token_id=known.bos_token_id,
        eos_token_id=end_tokens(known, model.config),
        pad_token_id=known.pad_token_id,
        do_sample=False,
        repetition_penalty=1.0,
    )


def write_processor(folder: Path, processor: ImageTextProcessor) -> None:
    """Writes tokenizer, chat template and the family's stock preprocessor_config.json."""
    processor.tokenizer.save_pretrained(folder)
    _name_special_tokens_for_version_4(folder / "tokenizer_config.json")
    content = processor.family.preprocessor_config(processor.stock)
    _write_json(folder / "preprocessor_config.json", content)


def _name_special_tokens_for_version_4(path: Path) -> None:
    """transformers 4 has another name for a list of special tokens, which 5 reads too; under the
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
