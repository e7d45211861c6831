"""Tokenizer and image processor of Qwen2.5-VL, without torchvision."""

from dataclasses import dataclass
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from laid.common.errors import UserError
from laid.vlm.model_loading import ModelArgs
from laid.vlm.model_paths import cannot_load, resolve_model


class ImageTextProcessor(Qwen2_5_VLProcessor):
    """transformers' processor less its video half, which alone would need torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None):
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


@dataclass
class ProcessorArgs:
    """Tokenizer and image processor."""

    path: str = "tiny/student"
    """Hub id or folder with tokenizer, chat template and preprocessor_config.json."""
    revision: str | None = None
    """Branch, tag or commit of a hub id. None: its main branch."""
    min_pixels: int | None = None
    """Smallest image in pixels: smaller ones are enlarged. None: as the folder says."""
    max_pixels: int | None = None
    """Largest image in pixels: larger ones are reduced. None: as the folder says."""


def load_processor(args: ProcessorArgs) -> ImageTextProcessor:
    """Loads tokenizer, chat template and image processor.

    Raises:
        UserError: nothing loads from ``path``, its tokenizer has no chat template or none of
            Qwen2.5-VL's image tokens, or the pixel limits contradict each other.
    """
    folder = resolve_model(args.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, revision=args.revision, trust_remote_code=False
        )
        images = Qwen2VLImageProcessorPil.from_pretrained(folder, revision=args.revision)
    except (OSError, ValueError) as reason:
        raise cannot_load("processor", args.path, reason) from reason
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"the tokenizer of {args.path!r} has no chat template: expected a chat_template.jinja "
            "beside it, as every Qwen2.5-VL-Instruct folder has"
        )
    vocabulary = tokenizer.get_vocab()
    lacking = [t for t in ("<|image_pad|>", "<|im_end|>") if t not in vocabulary]
    if lacking:
        raise UserError(
            f"the tokenizer of {args.path!r} lacks {', '.join(lacking)}: it is not Qwen2.5-VL's"
        )
    if args.min_pixels is not None:
        images.size["shortest_edge"] = args.min_pixels
    if args.max_pixels is not None:
        images.size["longest_edge"] = args.max_pixels
    if not 0 < images.size["shortest_edge"] <= images.size["longest_edge"]:
        raise UserError(
            f"min_pixels {images.size['shortest_edge']} and max_pixels "
            f"{images.size['longest_edge']}: expected 0 < min_pixels <= max_pixels"
        )
    return ImageTextProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


def load_tokenizer(args: ModelArgs) -> PreTrainedTokenizerBase:
    """A model's tokenizer.

    Raises:
        UserError: as ``load_processor``.
    """
    tokenizer: PreTrainedTokenizerBase = load_processor(
        ProcessorArgs(args.path, args.revision)
    ).tokenizer
    return tokenizer
