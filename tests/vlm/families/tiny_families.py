"""What makes a tiny model of every family. A new family is one line of ``CASES``."""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase, ProcessorMixin, Qwen2VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from laid.miniature.packaged_models import corpus
from laid.miniature.tiny_models import tiny_config, tiny_tokenizer
from laid.vlm.families.family import Config, Family
from laid.vlm.families.qwen2_5_vl import Qwen25VL
from laid.vlm.families.qwen2_vl import Qwen2VL
from laid.vlm.families.qwen_vl import QwenVL


@dataclass(frozen=True)
class Tiny:
    """What makes a family's tiny models.

    Attributes:
        config: of (tokenizer, layers, heads, kv_heads), all but the first by name.
        processor: tokenizer and image processor, as the family loads them.
    """

    config: Callable[..., Config]
    processor: Callable[[], ProcessorMixin]


def qwen_processor(family: type[QwenVL], **images) -> Callable[[], ProcessorMixin]:
    """Any Qwen's, with the miniature's tokenizer; ``images``: of the image processor."""

    def make():
        tokenizer = tiny_tokenizer(corpus())
        patches = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 1280, **images)
        return family.processor_class(patches, tokenizer, chat_template=tokenizer.chat_template)

    return make


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


CASES: dict[type[Family], Tiny] = {
    Qwen25VL: Tiny(tiny_config, qwen_processor(Qwen25VL)),
    Qwen2VL: Tiny(tiny_qwen2_vl, qwen_processor(Qwen2VL)),
}
