"""Qwen2.5-VL in small: the real classes with few layers, and a tokenizer of the words we use."""

import itertools
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path

import torch
from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedModel, Qwen2_5_VLConfig, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from laid.vlm.families.family import Config
from laid.vlm.families.qwen_vl import QwenVL
from laid.vlm.families.registry import family_of
from laid.vlm.hf_folder import write_processor
from laid.vlm.processor import ImageTextProcessor

_TURNS = ("endoftext", "im_start", "im_end")
_VISION = ("vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")
SPECIAL = tuple(f"<|{name}|>" for name in (*_TURNS, *_VISION))
"""The special tokens that a haystack uses, by the names that Qwen2.5-VL gives them."""

CHAT_TEMPLATE = (files("laid.miniature") / "chat_template.jinja").read_text("utf-8")
"""ChatML with Qwen2.5-VL's image tokens, and no system turn: short contexts stay short."""


def tiny_tokenizer(corpus: Iterable[str]) -> Qwen2Tokenizer:
    """A byte-level BPE tokenizer in which every word of ``corpus`` is one token.

    Any other text is spelled in bytes and pieces, so nothing is unknown. The merges are made word
    by word, left to right, rather than by counting: the same corpus gives the same ids everywhere.
    """
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    vocabulary = {token: i for i, token in enumerate(SPECIAL)}
    for byte in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[byte] = len(vocabulary)
    merges: dict[tuple[str, str], int] = {}
    words = {piece: None for text in corpus for piece, _ in splitter.pre_tokenize_str(text)}
    for word in words:
        pieces = _apply(list(word), merges)
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            merges.setdefault(pair, len(merges))
            vocabulary.setdefault(pieces[0] + pieces[1], len(vocabulary))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=list(merges),
        unk_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL[1:]),
        chat_template=CHAT_TEMPLATE,
        model_max_length=131072,
    )


def _apply(pieces: list[str], merges: dict[tuple[str, str], int]) -> list[str]:
    """BPE: joins the neighbours that were merged earliest, until none is left."""
    while True:
        pairs = enumerate(itertools.pairwise(pieces))
        ranked = [(merges[pair], at) for at, pair in pairs if pair in merges]
        if not ranked:
            return pieces
        _, at = min(ranked)
        pieces = [*pieces[:at], pieces[at] + pieces[at + 1], *pieces[at + 2 :]]


def tiny_config(
    tokenizer: Qwen2Tokenizer,
    *,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int = 32,
    vision_hidden: int = 64,
    vision_layers: int = 2,
    vocab_size: int | None = None,
) -> Qwen2_5_VLConfig:
    """A Qwen2.5-VL configuration of a few hundred thousand parameters.

    Half of ``head_dim`` are rotary pairs; time, height and width own 1/4, 3/8, 3/8 of them, like
    Qwen2.5-VL's 16, 24, 24 of 64.
    """
    hidden, pairs = heads * head_dim, head_dim // 2
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(list(SPECIAL)), strict=True))
    return Qwen2_5_VLConfig(
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        text_config={
            "vocab_size": vocab_size or len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 3 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "initializer_range": 0.08,
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [pairs // 4, pairs * 3 // 8, pairs * 3 // 8],
            },
        },
        vision_config={
            "depth": vision_layers,
            "hidden_size": vision_hidden,
            "intermediate_size": 2 * vision_hidden,
            "num_heads": 2,
            "out_hidden_size": hidden,
            "fullatt_block_indexes": [vision_layers - 1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )


def tiny_processor(
    corpus: Iterable[str], make_config: Callable[..., Config] = tiny_config
) -> ImageTextProcessor:
    """The tiny tokenizer with Qwen2.5-VL's image processor; 28 x 28 pixels are the least.

    Args:
        make_config: of a Qwen's tiny configuration, such as ``tiny_config``.
    """
    images = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 1280)
    tokenizer = tiny_tokenizer(corpus)
    # Of a configuration, a processor needs what all tiny models have in common.
    family = family_of(make_config(tokenizer, layers=1, heads=1, kv_heads=1))
    assert isinstance(family, QwenVL)
    stock = family.processor_class(images, tokenizer, chat_template=CHAT_TEMPLATE)
    return ImageTextProcessor(family, stock)


def tiny_model(config: Config) -> PreTrainedModel:
    """A model with the weights that transformers draws, in float32, by torch's global generator."""
    return family_of(config).model_class._from_config(
        config, dtype=torch.float32, attn_implementation="sdpa"
    )


def write_tiny(folder: Path, config: Config, processor: ImageTextProcessor) -> None:
    """Writes configuration and processor in Hugging Face layout, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    write_processor(folder, processor)
