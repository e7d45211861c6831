"""Qwen2-VL as a family, as small as one can be: the example of docs/extending.md.

Shape suffixes as in ``laid/vlm/families/family.py``.
"""

from functools import partial
from types import SimpleNamespace

from transformers import (
    AutoTokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLModel,
    Qwen2VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb

from laid.common.errors import UserError
from laid.vlm.families.family import Family


class Processor(Qwen2VLProcessor):
    """Without the video half, which would need torchvision."""

    @classmethod
    def get_attributes(cls):
        return ["image_processor", "tokenizer"]


class Qwen2VL(Family):
    model_type = "qwen2_vl"
    title = "Qwen2-VL"
    model_class = Qwen2VLForConditionalGeneration
    apply_rotary = staticmethod(apply_rotary_pos_emb)
    end_of_turn = "<|im_end|>"
    prompt_tokens = 49
    rope_keys = ("rope_theta", "mrope_section")
    extensions = ("yarn",)
    renamed = (
        (r"^visual\.", "model.visual."),
        (r"^model\.(?!visual\.|language_model\.)", "model.language_model."),
    )
    loops_over_images = True

    def tower(self, hf):
        return hf.model.visual

    def tower_blocks(self, hf):
        return hf.model.visual.blocks

    def arguments(self, inputs):
        return {
            **super().arguments(inputs),
            "mm_token_type_ids": inputs.mm_token_type_ids_BL,
            "image_grid_thw": inputs.image_grid_thw_I3,
        }

    def positions(self, input_ids_BL, visual_BL, grid_I3):
        model = SimpleNamespace(config=self.config)
        model.get_vision_position_ids = partial(Qwen2VLModel.get_vision_position_ids, model)
        positions_3BL, _ = Qwen2VLModel.get_rope_index(
            model, input_ids_BL, visual_BL, image_grid_thw=grid_I3
        )
        return positions_3BL

    def load_processor(self, folder, revision):
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision)
        images = Qwen2VLImageProcessorPil.from_pretrained(folder, revision=revision)
        return Processor(images, tokenizer, chat_template=tokenizer.chat_template)

    def limit_pixels(self, processor, least, most):
        if least is not None or most is not None:
            raise UserError("data.min_pixels and max_pixels: not for this family")

    def pieces(self, processor, images):
        made = processor.image_processor(images=list(images), return_tensors="pt")
        return made["pixel_values"], made["image_grid_thw"]

    def image_text(self, processor, grid_3):
        return processor.replace_image_token({"image_grid_thw": [grid_3]}, 0)

    def preprocessor_config(self, processor):
        return {
            **processor.image_processor.to_dict(),
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2VLProcessor",
        }

    def planned_grid(self, width, height, least, most):
        high, wide = smart_resize(height, width, 28, least or 28 * 28, most or 28 * 28 * 1280)
        return 1, high // 14, wide // 14

    def planned_image(self, grid):
        ids = self.config
        visual = [ids.image_token_id] * (grid[1] * grid[2] // 4)
        return [ids.vision_start_token_id, *visual, ids.vision_end_token_id]

    def planned_piece(self):
        return (3 * 2 * 14 * 14,)


def tiny_qwen2_vl(tokenizer, *, layers, heads, kv_heads, head_dim=32):
    """A configuration of a few hundred thousand parameters."""
    hidden, pairs = heads * head_dim, head_dim // 2
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
                "mrope_section": [pairs // 4, pairs * 3 // 8, pairs * 3 // 8],
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
