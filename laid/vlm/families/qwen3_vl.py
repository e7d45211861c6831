"""Qwen3-VL: 2B to 32B, and 30B-A3B and 235B-A22B, whose decoders are mixtures of experts.

Shape suffixes as in ``laid/vlm/families/family.py``.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    Qwen3VLForConditionalGeneration,
    Qwen3VLModel,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLMoeModel,
    Qwen3VLProcessor,
)
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    BaseModelOutputWithDeepstackFeatures,
    apply_rotary_pos_emb,
)

from laid.vlm.families.qwen_vl import QwenVL, WithoutVideos
from laid.vlm.families.vision_features import VisionFeatures


class Processor(WithoutVideos, Qwen3VLProcessor):
    """Tokenizer and image processor."""


class Qwen3VL(QwenVL):
    """Norms of queries and keys; rotary pairs of time, height and width in turn; and DeepStack: the
    tower's middle blocks give the first decoder layers features of their own."""

    model_type = "qwen3_vl"
    title = "Qwen3-VL"
    model_class = Qwen3VLForConditionalGeneration
    inner_class = Qwen3VLModel
    apply_rotary = staticmethod(apply_rotary_pos_emb)
    processor_class = Processor
    stock_processor = "Qwen3VLProcessor"
    pixel_limits = (256 * 256, 4096 * 4096)
    prompt_tokens = 38  # no system turn
    qk_layout = "BLHD"
    rope_keys = ("rope_theta", "mrope_section", "mrope_interleaved")

    def qk_modules(self, layer: nn.Module) -> tuple[nn.Module, nn.Module]:
        attention = layer.get_submodule("self_attn")
        return attention.get_submodule("q_norm"), attention.get_submodule("k_norm")

    def vision_features(
        self, hf: PreTrainedModel, pixel_values: Tensor, grid_I3: Tensor
    ) -> list[VisionFeatures]:
        made = hf.get_image_features(pixel_values, grid_I3)
        by_image = zip(made.pooler_output, *made.deepstack_features, strict=True)
        return [VisionFeatures(tokens_VE, tuple(more_VE)) for tokens_VE, *more_VE in by_image]

    def encoder_output(
        self, features: Sequence[VisionFeatures]
    ) -> BaseModelOutputWithDeepstackFeatures:
        by_layer = zip(*(one.more_VE for one in features), strict=True)
        return BaseModelOutputWithDeepstackFeatures(
            pooler_output=[one.tokens_VE for one in features],
            deepstack_features=[list(of_images) for of_images in by_layer],
        )

    def for_version_4(self, config: dict[str, Any]) -> dict[str, Any]:
        config = super().for_version_4(config)
        del config["text_config"]["rope_scaling"]["type"]  # there, rope_type is default
        return config


class Qwen3VLMoe(Qwen3VL):
    """A mixture of experts in place of each MLP; a teacher of the others."""

    model_type = "qwen3_vl_moe"
    model_class = Qwen3VLMoeForConditionalGeneration
    inner_class = Qwen3VLMoeModel
    exchanged = (r"\.mlp\.experts\.(gate_up|down)_proj$",)
