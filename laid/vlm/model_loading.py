"""Builds a model from a hub id, a folder, or a configuration alone."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedModel
from transformers.utils import is_flash_attn_2_available, is_kernels_available

from laid.common.errors import UserError
from laid.vlm.export_marker import check_export
from laid.vlm.families.family import Config
from laid.vlm.families.registry import family_of
from laid.vlm.fused_layers import fuse_layers, liger_kernels
from laid.vlm.layer_options import Checkpointing, checkpoint_layers
from laid.vlm.model_paths import cannot_load, resolve_model
from laid.vlm.self_extend import set_self_extend
from laid.vlm.weight_files import (
    Rows,
    all_rows,
    fill_at_random,
    fill_buffers,
    fill_from_files,
    shard_names,
)
from laid.vlm.window_extension import SelfExtendArgs, Settings, set_rotation


@dataclass
class ModelArgs:
    """A vision-language model: which one, and how it is held."""

    path: str = "tiny/student"
    """Hub id (Qwen/Qwen2.5-VL-7B-Instruct), local folder in Hugging Face layout, or a model of the
    package (tiny/student, tiny/student-positions, tiny/teacher, tiny/teacher-independent)."""
    revision: str | None = None
    """Branch, tag or commit of a hub id. None: its main branch."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """dtype of the weights. A student that is trained wants float32 (with bf16-mixed
    precision on a GPU); a frozen teacher bfloat16."""
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """transformers' attention implementation. flash_attention_2 needs a GPU and the flash-attn
    package, or the kernels package, by which transformers downloads a build from the hub
    (kernels-community/flash-attn2) and runs it."""
    freeze_vision: bool = True
    """Keep the vision tower as it is (the paper does not say; its losses act on the decoder)."""
    activation_checkpointing: Checkpointing = False
    """Compute activations a second time in the backward pass instead of keeping them; selective:
    all but attention's, which take little memory and much time."""
    compile: bool = False
    """Compile the decoder's layers for training, each by itself (torch.compile), but for those
    whose queries and keys a loss compares. Only of a student that is not sharded."""
    liger: bool = False
    """Liger's kernels for the norms and MLPs of the decoder's layers: the liger-kernel package and
    a GPU."""
    random_weights: bool = False
    """Build from config.json with random weights of `seed`, reading none: for tests, and for
    measuring speed and memory without the weights."""
    seed: int = 0
    """Seed of the random weights."""


def flash_attention_installed() -> bool:
    """Whether ``attn_implementation: flash_attention_2`` can run here."""
    built = is_flash_attn_2_available() or is_kernels_available()
    return bool(torch.cuda.is_available() and built)


def load_config(args: ModelArgs) -> Config:
    """The model's configuration, without its weights.

    Raises:
        UserError: there is none at ``path``, or it is of a family that laid does not have.
    """
    folder = resolve_model(args.path)
    try:
        config = AutoConfig.from_pretrained(folder, revision=args.revision, trust_remote_code=False)
    except Exception as reason:  # at a broken file transformers raises anything
        raise cannot_load("configuration", args.path, reason) from reason
    try:
        family_of(config)
    except UserError as reason:
        raise UserError(f"{args.path!r} can't be distilled: {reason}") from None
    return config


def load_model(
    args: ModelArgs, extension: Settings | None = None, weights: bool = True
) -> PreTrainedModel:
    """The model on the CPU, in evaluation mode, with gradients as ``freeze_vision`` says.

    ``extension`` lengthens its window without training (``laid/vlm/window_extension.py``);
    without ``weights`` there is memory for them and nothing in it.

    ``dtype`` goes to the constructor rather than to ``.to()``, which would also round the rotary
    frequencies (up to 61 rad of error at 53,000 tokens in bfloat16).

    Raises:
        UserError: no weights there, or an attention implementation that is not installed.
    """
    if args.random_weights or not weights:
        model = empty_model(args, extension)
        materialise(model, args, "cpu", all_rows if weights else None)
        return model
    _check_kernels(args)
    config = _extended_config(args, extension)
    if Path(folder := resolve_model(args.path)).is_dir():
        check_export(Path(folder))
        shard_names(Path(folder))
    try:
        model = family_of(config).model_class.from_pretrained(
            folder,
            revision=args.revision,
            config=config,
            dtype=getattr(torch, args.dtype),
            attn_implementation=args.attn_implementation,
            use_safetensors=True,  # the other format is a pickle
        )
    except Exception as reason:
        raise cannot_load("weights", args.path, reason) from reason
    return _as_asked(model, args, extension)


def empty_model(args: ModelArgs, extension: Settings | None = None) -> PreTrainedModel:
    """The same model on the meta device: shapes without weights, however large it is.

    Raises:
        UserError: as ``load_config``, or an attention implementation that is not installed.
    """
    _check_kernels(args)
    config = _extended_config(args, extension)
    with torch.device("meta"):
        model = family_of(config).model_class._from_config(
            config,
            dtype=getattr(torch, args.dtype),
            attn_implementation=args.attn_implementation,
        )
    with suppress(OSError):  # a folder may have none
        model.generation_config = GenerationConfig.from_pretrained(
            resolve_model(args.path), revision=args.revision
        )
    return _as_asked(model, args, extension)


def materialise(
    model: PreTrainedModel,
    args: ModelArgs,
    device: torch.device | str,
    rows: Rows | None,
) -> None:
    """Gives an ``empty_model`` memory and weights, those of them that ``rows`` are this process's.

    Args:
        rows: None leaves the weights as memory is, for a plan.

    Raises:
        UserError: as ``fill_from_files``.
    """
    model.to_empty(device=device)
    # Memory was made for each name; where two are one parameter, they are so again.
    model.tie_weights()
    fill_buffers(model)
    if rows is None:
        return
    if args.random_weights:
        fill_at_random(model, args.seed, rows)
    else:
        fill_from_files(model, args.path, args.revision, rows)


def end_tokens(generation: GenerationConfig, config: Config) -> int | list[int] | None:
    """Ids of the tokens that end an answer; configurations of some classes have none."""
    return generation.eos_token_id or getattr(config.text_config, "eos_token_id", None)


def _extended_config(args: ModelArgs, extension: Settings | None) -> Config:
    config = load_config(args)
    if extension is not None:
        set_rotation(config, extension)
    return config


def _check_kernels(args: ModelArgs) -> None:
    if args.liger:
        liger_kernels()
    if args.attn_implementation == "flash_attention_2" and not flash_attention_installed():
        raise UserError(
            "attn_implementation flash_attention_2: there is no GPU, or neither flash-attn nor the "
            "kernels package is installed. Install one (`pip install kernels`) or use sdpa."
        )


def _as_asked(
    model: PreTrainedModel, args: ModelArgs, extension: Settings | None
) -> PreTrainedModel:
    # transformers takes from here what generate() is not given; a hub's settings (a repetition
    # penalty, forbidden words) would change answers. Export reads them from the folder again.
    end = end_tokens(model.generation_config, model.config)
    model.generation_config = GenerationConfig(eos_token_id=end)
    if isinstance(extension, SelfExtendArgs):
        set_self_extend(model, extension)
    family = family_of(model.config)
    family.built(model)
    if args.liger:
        fuse_layers(model, family, *liger_kernels())
    if args.freeze_vision:
        for part in family.vision_parts(model):
            part.requires_grad_(False)
    if args.activation_checkpointing:
        checkpoint_layers(model, args.activation_checkpointing)
    return model.eval()
