"""Qwen3-VL in small: the real classes with few layers."""

from transformers import PreTrainedTokenizerBase, Qwen3VLConfig


def tiny_qwen3_vl(
    tokenizer: PreTrainedTokenizerBase,
    *,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int = 32,
    hidden: int | None = None,
    vision_hidden: int = 64,
    vision_layers: int = 3,
    patch_size: int = 16,
) -> Qwen3VLConfig:
    """A Qwen3-VL configuration of a few hundred thousand parameters.

    Half of ``head_dim`` are rotary pairs; time, height and width own 3/8, 5/16, 5/16 of them, like
    Qwen3-VL's 24, 20, 20 of 64. Every block of the tower but the last gives features to a decoder
    layer (DeepStack). ``hidden`` is ``heads * head_dim`` unless given.
    """
    hidden, pairs = hidden or heads * head_dim, head_dim // 2
    number = tokenizer.convert_tokens_to_ids
    return Qwen3VLConfig(
        architectures=["Qwen3VLForConditionalGeneration"],
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 3 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "initializer_range": 0.08,
            "bos_token_id": None,
            "eos_token_id": number("<|im_end|>"),
            "pad_token_id": number("<|endoftext|>"),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [pairs * 3 // 8, pairs * 5 // 16, pairs * 5 // 16],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": vision_layers,
            "patch_size": patch_size,
            "hidden_size": vision_hidden,
            "intermediate_size": 2 * vision_hidden,
            "num_heads": 2,
            "out_hidden_size": hidden,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": list(range(vision_layers - 1)),
            "initializer_range": 0.08,
        },
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
    )
