"""Every full-size configuration whose models' sizes are stated here, parsed and planned."""

import json
from pathlib import Path

import pytest

from laid.planning.plan_command import plan
from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import ModelArgs, load_config
from laid.vlm.pair_check import check_pair

CONFIGS = Path(__file__).parents[2] / "configs"


def qwen3_vl(model_type="qwen3_vl", **text):
    """Of 8B, 32B and the mixtures of experts, which have the same tower."""
    text["rope_scaling"] = {
        "rope_type": "default",
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    }
    fixed = {
        "model_type": f"{model_type}_text",
        "head_dim": 128,
        "num_key_value_heads": 8,
        "vocab_size": 151_936,
        "max_position_embeddings": 262_144,
        "rope_theta": 5_000_000,
    }
    return {
        "model_type": model_type,
        "tie_word_embeddings": False,
        "text_config": {**fixed, **text},
        "vision_config": {
            "model_type": model_type,
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_heads": 16,
            "out_hidden_size": text["hidden_size"],
            "deepstack_visual_indexes": [8, 16, 24],
        },
        "image_token_id": 151_655,
        "video_token_id": 151_656,
        "vision_start_token_id": 151_652,
        "vision_end_token_id": 151_653,
    }


QWEN3_VL_8B = qwen3_vl(
    hidden_size=4096, intermediate_size=12_288, num_hidden_layers=36, num_attention_heads=32
)
QWEN3_VL_32B = qwen3_vl(
    hidden_size=5120, intermediate_size=25_600, num_hidden_layers=64, num_attention_heads=64
)
EXPERTS = {
    "model_type": "qwen3_vl_moe",
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
}
QWEN3_VL_30B_A3B = qwen3_vl(
    **EXPERTS,
    hidden_size=2048,
    num_hidden_layers=48,
    num_attention_heads=32,
    moe_intermediate_size=768,
)
QWEN3_VL_235B_A22B = qwen3_vl(
    **EXPERTS,
    hidden_size=4096,
    num_hidden_layers=94,
    num_attention_heads=64,
    moe_intermediate_size=1536,
)


def internvl3(vision, **text):
    """The tower of 300M or 6B, and Qwen2.5's decoder."""
    fixed = {
        "model_type": "qwen2",
        "vocab_size": 151_674,
        "max_position_embeddings": 32_768,
        "rope_theta": 1_000_000.0,
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
    }
    return {
        "model_type": "internvl",
        "architectures": ["InternVLForConditionalGeneration"],
        "tie_word_embeddings": False,
        "text_config": {**fixed, **text},
        "vision_config": {"model_type": "internvl_vision", "image_size": [448, 448], **vision},
        "image_token_id": 151_667,
        "image_seq_length": 256,
    }


INTERNVL3_8B = internvl3(
    {"attention_bias": True},  # the rest is transformers' default
    hidden_size=3584,
    intermediate_size=18_944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
)
INTERNVL3_38B = internvl3(
    {
        "hidden_size": 3200,
        "intermediate_size": 12_800,
        "num_hidden_layers": 45,
        "num_attention_heads": 25,
        "use_qk_norm": True,
        "norm_type": "rms_norm",
    },
    hidden_size=5120,
    intermediate_size=27_648,
    num_hidden_layers=64,
    num_attention_heads=40,
    num_key_value_heads=8,
)


def gemma3(**text):
    """SigLIP's tower of 896 x 896 pixels."""
    fixed = {
        "model_type": "gemma3_text",
        "vocab_size": 262_208,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 1024,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    return {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {**fixed, **text},
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 896,
            "patch_size": 14,
            "vision_use_head": False,
        },
    }


GEMMA3_4B = gemma3(
    hidden_size=2560,
    intermediate_size=10_240,
    num_hidden_layers=34,
    num_attention_heads=8,
    num_key_value_heads=4,
)
GEMMA3_12B = gemma3(
    hidden_size=3840,
    intermediate_size=15_360,
    num_hidden_layers=48,
    num_attention_heads=16,
    num_key_value_heads=8,
)

PAIRS = {
    "32b": ("qwen3-vl-8b", 4, QWEN3_VL_8B, QWEN3_VL_32B),
    "30b-a3b": ("qwen3-vl-8b", 4, QWEN3_VL_8B, QWEN3_VL_30B_A3B),
    "235b-a22b": ("qwen3-vl-8b", 16, QWEN3_VL_8B, QWEN3_VL_235B_A22B),
    "internvl3": ("internvl3-8b", 4, INTERNVL3_8B, INTERNVL3_38B),
    "gemma3": ("gemma3-4b", 4, GEMMA3_4B, GEMMA3_12B),
}
"""The file in ``configs/``, the number of cards, and config.json of student and teacher."""


@pytest.fixture(params=PAIRS)
def pair(request, tmp_path):
    """The file, the number of cards, and folders of student and teacher."""
    name, devices, *configs = PAIRS[request.param]
    folders = tmp_path / "student", tmp_path / "teacher"
    for folder, config in zip(folders, configs, strict=True):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
    return name, devices, *folders


def test_they_fit_together(pair):
    student, teacher = (load_config(ModelArgs(str(folder))) for folder in pair[2:])
    expected = 256 if student.model_type == "gemma3" else 128
    assert family_of(student).shape.head_dim == family_of(teacher).shape.head_dim == expected
    check_pair(student, teacher, {"a": 1}, {"a": 1}, ["laid"])


@pytest.mark.slow  # up to a minute each
def test_they_fit_on_their_cards(pair):
    name, devices, student, teacher = pair
    text = plan(
        [
            f"--config={CONFIGS / name}.yaml",
            f"--model.student.path={student}",
            f"--model.teacher.path={teacher}",
            f"--devices={devices}",
            f"--data.global_batch_size={2 * devices}",
            "--gpu=a800",
        ]
    )
    print(text)
    assert "training fits" in text
    assert "the test fits" in text
