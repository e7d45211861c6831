"""Qwen2.5-VL, 3B to 72B."""

from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLModel,
    Qwen2_5_VLProcessor,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

from laid.vlm.families.qwen_vl import QwenVL, WithoutVideos


class Processor(WithoutVideos, Qwen2_5_VLProcessor):
    """Tokenizer and image processor."""


class Qwen25VL(QwenVL):
    """A tower whose attention is in windows, save in a few blocks."""

    model_type = "qwen2_5_vl"
    title = "Qwen2.5-VL"
    model_class = Qwen2_5_VLForConditionalGeneration
    inner_class = Qwen2_5_VLModel
    apply_rotary = staticmethod(apply_rotary_pos_emb)
    processor_class = Processor
    stock_processor = "Qwen2_5_VLProcessor"
