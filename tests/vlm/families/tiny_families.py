"""What makes a tiny model of every family. A new family is one line of ``CASES``."""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import (
    Gemma3Config,
    Gemma3Processor,
    InternVLConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2VLConfig,
    Qwen3VLConfig,
    Qwen3VLMoeConfig,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from laid.miniature.packaged_models import corpus
from laid.miniature.tiny_models import tiny_config, tiny_tokenizer
from laid.miniature.tiny_qwen3_vl import tiny_qwen3_vl
from laid.vlm.families import internvl
from laid.vlm.families.family import Config, Family
from laid.vlm.families.gemma3 import Gemma3
from laid.vlm.families.internvl import InternVL
from laid.vlm.families.qwen2_5_vl import Qwen25VL
from laid.vlm.families.qwen2_vl import Qwen2VL
from laid.vlm.families.qwen3_vl import Qwen3VL, Qwen3VLMoe
from laid.vlm.families.qwen_vl import QwenVL


@dataclass(frozen=True)
class Tiny:
    """What makes a family's tiny models.

    Attributes:
        config: of (tokenizer, layers, heads, kv_heads), all but the first by name.
        processor: tokenizer and image processor, as the family loads them.
        hub_name: what the hub's files call a parameter.
    """

    config: Callable[..., Config]
    processor: Callable[[], ProcessorMixin]
    hub_name: Callable[[str], str] = str


def qwen_processor(family: type[QwenVL], **images) -> Callable[[], ProcessorMixin]:
    """Any Qwen's, with the miniature's tokenizer; ``images``: of the image processor."""

    def make():
        tokenizer = tiny_tokenizer(corpus())
        patches = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 1280, **images)
        return family.processor_class(patches, tokenizer, chat_template=tokenizer.chat_template)

    return make


def version_4(name: str) -> str:
    """As transformers 4 and the hub call Qwen2-VL's and Qwen2.5-VL's parameters."""
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def tiny_qwen2_vl(
    tokenizer: PreTrainedTokenizerBase, *, layers: int, heads: int, kv_heads: int
) -> Qwen2VLConfig:
    hidden = heads * 32
    number = tokenizer.convert_tokens_to_ids
    return Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "initializer_range": 0.08,
            "bos_token_id": None,
            "eos_token_id": number("<|im_end|>"),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [4, 6, 6],
            },
        },
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": hidden,
            "mlp_ratio": 2,
            "num_heads": 2,
        },
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
    )


def narrow_qwen3_vl(
    tokenizer: PreTrainedTokenizerBase, *, layers: int, heads: int, kv_heads: int
) -> Qwen3VLConfig:
    """Whose head_dim is not hidden size / heads, as that of 4B and 32B."""
    shape = {"layers": layers, "heads": heads, "kv_heads": kv_heads, "hidden": 24 * heads}
    return tiny_qwen3_vl(tokenizer, **shape, vision_hidden=32)


def tiny_qwen3_vl_moe(
    tokenizer: PreTrainedTokenizerBase, *, layers: int, heads: int, kv_heads: int
) -> Qwen3VLMoeConfig:
    dense = narrow_qwen3_vl(tokenizer, layers=layers, heads=heads, kv_heads=kv_heads).to_dict()
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
    kind = {"model_type": "qwen3_vl_moe", "architectures": ["Qwen3VLMoeForConditionalGeneration"]}
    return Qwen3VLMoeConfig.from_dict(
        {
            **dense,
            **kind,
            "text_config": {**dense["text_config"], **experts, "model_type": "qwen3_vl_moe_text"},
            "vision_config": {**dense["vision_config"], "model_type": "qwen3_vl_moe_vision"},
        }
    )


CHATML = """{% for message in messages %}<|im_start|>{{ message.role }}
{% for part in message.content %}{% if part.type == "image" %}<IMG_CONTEXT>
{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""As InternVL3's: no system turn, and a line break after each image."""


def internvl_processor() -> ProcessorMixin:
    """Tiles of 56 x 56 pixels, 4 tokens each."""
    tokenizer = tiny_tokenizer(corpus())
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer.add_special_tokens({"extra_special_tokens": list(named.values())})
    tokenizer._set_model_specific_special_tokens(named)
    tokenizer.chat_template = CHATML
    images = GotOcr2ImageProcessorPil(size={"height": 56, "width": 56})
    return internvl.Processor(
        images, tokenizer, image_seq_length=4, chat_template=tokenizer.chat_template
    )


def tiny_internvl(
    tokenizer: PreTrainedTokenizerBase, *, layers: int, heads: int, kv_heads: int
) -> InternVLConfig:
    number = tokenizer.convert_tokens_to_ids
    return InternVLConfig(
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": heads * 32,
            "intermediate_size": heads * 64,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "initializer_range": 0.08,
            "max_position_embeddings": 32768,
            "bos_token_id": None,
            "eos_token_id": number("<|im_end|>"),
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6},
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "attention_bias": True,
            "image_size": [56, 56],
            "initializer_range": 0.08,
        },
        image_token_id=number("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )


GEMMA_TURNS = """<bos>{% for message in messages %}<start_of_turn>
{{- "model" if message.role == "assistant" else message.role }}
{% for part in message.content %}{% if part.type == "image" %}<start_of_image>
{%- else %}{{ part.text | trim }}{% endif %}{% endfor %}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
"""As Gemma 3's: an image brings its line breaks."""


def gemma3_processor() -> ProcessorMixin:
    """Images of 56 x 56 pixels, 4 tokens each."""
    tokenizer = tiny_tokenizer(corpus())
    named = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    more = ["<bos>", "<start_of_turn>", "<end_of_turn>", *named.values()]
    tokenizer.add_special_tokens({"extra_special_tokens": more})
    tokenizer._set_model_specific_special_tokens(named)
    tokenizer.chat_template = GEMMA_TURNS
    images = Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    return Gemma3Processor(
        images, tokenizer, chat_template=tokenizer.chat_template, image_seq_length=4
    )


def tiny_gemma3(
    tokenizer: PreTrainedTokenizerBase, *, layers: int, heads: int, kv_heads: int
) -> Gemma3Config:
    """A global layer after each local one, whose window is less than two images with their text;
    head_dim is not hidden size / heads."""
    number = tokenizer.convert_tokens_to_ids
    return Gemma3Config(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": heads * 24,
            "intermediate_size": heads * 48,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 12,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"][:layers],
            "initializer_range": 0.08,
            "bos_token_id": number("<bos>"),
            "eos_token_id": number("<end_of_turn>"),
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            },
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
            "vision_use_head": False,
        },
        mm_tokens_per_image=4,
        boi_token_index=number("<start_of_image>"),
        eoi_token_index=number("<end_of_image>"),
        image_token_index=number("<image_soft_token>"),
    )


def llava_like(name: str) -> str:
    """As transformers 4 and the hub call InternVL3's and Gemma 3's parameters."""
    name = name.replace("lm_head", "language_model.lm_head")
    name = name.replace("model.language_model.", "language_model.model.")
    return name.replace("model.vision_tower", "vision_tower").replace("model.multi", "multi")


def siglip_like(name: str) -> str:
    """As ``llava_like``, with a level of SigLIP's that transformers 5 leaves out."""
    return llava_like(name).replace("vision_tower.", "vision_tower.vision_model.")


QWEN3_IMAGES = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}

CASES: dict[type[Family], Tiny] = {
    Qwen25VL: Tiny(tiny_config, qwen_processor(Qwen25VL), version_4),
    Qwen2VL: Tiny(tiny_qwen2_vl, qwen_processor(Qwen2VL), version_4),
    Qwen3VL: Tiny(narrow_qwen3_vl, qwen_processor(Qwen3VL, **QWEN3_IMAGES)),
    Qwen3VLMoe: Tiny(tiny_qwen3_vl_moe, qwen_processor(Qwen3VLMoe, **QWEN3_IMAGES)),
    InternVL: Tiny(tiny_internvl, internvl_processor, llava_like),
    Gemma3: Tiny(tiny_gemma3, gemma3_processor, siglip_like),
}
