"""Qwen2-VL, 2B to 72B."""

from transformers import Qwen2VLForConditionalGeneration, Qwen2VLModel, Qwen2VLProcessor
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb

from laid.vlm.families.qwen_vl import QwenVL, WithoutVideos


class Processor(WithoutVideos, Qwen2VLProcessor):
    """Tokenizer and image processor."""


class Qwen2VL(QwenVL):
    """A tower without windows."""

    model_type = "qwen2_vl"
    title = "Qwen2-VL"
    model_class = Qwen2VLForConditionalGeneration
    inner_class = Qwen2VLModel
    apply_rotary = staticmethod(apply_rotary_pos_emb)
    processor_class = Processor
    stock_processor = "Qwen2VLProcessor"
