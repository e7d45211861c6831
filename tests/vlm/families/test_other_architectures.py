"""What the seam must hold for families to come: norms of q and k, DeepStack, stated head_dim."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from attention_spy import AttentionSpy
from transformers import (
    Gemma3TextConfig,
    Gemma3TextModel,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLModel,
)
from transformers.models.gemma3 import modeling_gemma3
from transformers.models.qwen3_vl import modeling_qwen3_vl

from laid.miniature.tiny_models import tiny_config, tiny_model
from laid.planning.planned_inputs import haystack_inputs
from laid.signals.model_signals import QK, Wanted
from laid.vlm.families.family import VisionFeatures
from laid.vlm.families.qwen2_5_vl import Qwen25VL
from laid.vlm.families.registry import FAMILIES, family_of
from laid.vlm.pair_check import check_pair
from laid.vlm.qk_capture import captured_qk
from laid.vlm.rope_gain import RopeGainArgs, add_gains
from laid.vlm.vision_language_model import VLM


class Qwen3VL(Qwen25VL):
    """As far as signals and features go."""

    model_type = "qwen3_vl"
    title = "Qwen3-VL"
    model_class = Qwen3VLForConditionalGeneration
    apply_rotary = staticmethod(modeling_qwen3_vl.apply_rotary_pos_emb)
    qk_layout = "BLHD"
    rope_keys = ("rope_theta", "mrope_section", "mrope_interleaved")
    extensions = ()
    renamed = ()

    def qk_modules(self, layer):
        return layer.self_attn.q_norm, layer.self_attn.k_norm

    def positions(self, input_ids_BL, visual_BL, grid_I3):
        model = SimpleNamespace(config=self.config)
        model.get_vision_position_ids = partial(Qwen3VLModel.get_vision_position_ids, model)
        made = Qwen3VLModel.get_rope_index(model, input_ids_BL, visual_BL, image_grid_thw=grid_I3)
        return made[0]

    def vision_features(self, hf, pixel_values, grid_I3):
        made = hf.get_image_features(pixel_values, grid_I3)
        by_image = zip(made.pooler_output, *made.deepstack_features, strict=True)
        return [VisionFeatures(tokens_VE, tuple(more_VE)) for tokens_VE, *more_VE in by_image]

    def encoder_output(self, features):
        layers = zip(*(one.more_VE for one in features), strict=True)
        return modeling_qwen3_vl.BaseModelOutputWithDeepstackFeatures(
            pooler_output=[one.tokens_VE for one in features],
            deepstack_features=[list(of_images) for of_images in layers],
        )


@pytest.fixture
def qwen3(monkeypatch):
    """A tiny model whose head_dim, 32, is not hidden size / heads."""
    monkeypatch.setitem(FAMILIES, Qwen3VL.model_type, Qwen3VL)
    text = {
        "vocab_size": 64,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "initializer_range": 0.2,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
        },
    }
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 48,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
        "initializer_range": 0.2,
    }
    marks = {"vision_start_token_id": 61, "image_token_id": 62, "vision_end_token_id": 63}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **marks)
    torch.manual_seed(0)
    vlm = VLM(tiny_model(config).eval())
    with torch.no_grad():  # norms that do something
        for name, parameter in vlm.named_parameters():
            if "q_norm" in name or "k_norm" in name:
                parameter.uniform_(0.5, 2)
    return vlm.requires_grad_(False)


@pytest.fixture
def inputs(qwen3):
    """Two images in a haystack of the model's own tokens."""
    made = haystack_inputs(qwen3.hf.config, 2, (1, 4, 6), 1, with_answer=True)
    made.pixel_values_PC.normal_(generator=torch.Generator().manual_seed(1))
    return made


def assert_logits(spy, found, turn, groups, scaling):
    assert sorted(spy.logits_BHLL) == sorted(found)
    for layer, qk in found.items():
        q, k = (turn(x, layer) for x in (qk.q, qk.k))
        k = k.repeat_interleave(groups, dim=2)
        ours = torch.einsum("bqhd,bkhd->bhqk", q, k) * scaling
        torch.testing.assert_close(ours, spy.logits_BHLL[layer], atol=1e-5, rtol=1e-5)


def test_norms_of_q_and_k_are_part_of_what_is_captured(qwen3, inputs, monkeypatch):
    spy = AttentionSpy(monkeypatch, qwen3.family.layers(qwen3.hf))
    found = qwen3.signals(inputs, Wanted(layers=(0, 1, 2))).qk
    positions = inputs.position_ids_3BL
    assert_logits(spy, found, lambda x, _: qwen3.turn(x, positions), 2, 32**-0.5)


def test_a_gain_of_each_head_is_refused_behind_a_norm_that_all_heads_share(qwen3):
    with pytest.raises(ValueError, match=r"Qwen3-VL has a norm of queries.*leave model\.rope_gain"):
        add_gains(qwen3.hf, RopeGainArgs())


def test_features_of_several_layers_are_kept_and_given_back(qwen3, inputs):
    stock = qwen3.hf(**qwen3.family.arguments(inputs), pixel_values=inputs.pixel_values_PC).logits
    qwen3.learn(inputs.image_names, inputs.pixel_values_PC, inputs.image_grid_thw_I3, 1.0)
    kept = qwen3.features.of(inputs.image_names)
    assert [len(one.more_VE) for one in kept] == [2, 2]
    assert all(one.bytes == 3 * 6 * 48 * 4 for one in kept)
    blind = replace(inputs, pixel_values_PC=torch.empty(0))
    torch.testing.assert_close(qwen3.hf(**qwen3._arguments(blind)).logits, stock)
    without = [VisionFeatures(x.tokens_VE, tuple(0 * y for y in x.more_VE)) for x in kept]
    arguments = qwen3._arguments(blind)
    arguments["mm_encoder_outputs"] = {"image": qwen3.family.encoder_output(without)}
    assert (qwen3.hf(**arguments).logits - stock).abs().max() > 1e-3


class Gemma3(Qwen25VL):
    """As far as the decoder goes: norms after the transpose, layers that rotate differently."""

    apply_rotary = staticmethod(modeling_gemma3.apply_rotary_pos_emb)
    qk_layout = "BHLD"

    def qk_modules(self, layer):
        return layer.self_attn.q_norm, layer.self_attn.k_norm

    def rotate(self, hf, x_BLHD, positions_RBL, layer):
        decoder = self.decoder(hf)
        kind = decoder.config.layer_types[layer]
        cos_BLD, sin_BLD = decoder.rotary_emb(x_BLHD, self.position_argument(positions_RBL), kind)
        return self.turn(x_BLHD, cos_BLD, sin_BLD, 2)


def test_norms_after_the_transpose_and_layers_that_rotate_differently(monkeypatch):
    text = Gemma3TextConfig(
        vocab_size=32,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        query_pre_attn_scalar=32,
        layer_types=["sliding_attention", "full_attention"],
        pad_token_id=0,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    decoder = Gemma3TextModel(text).eval().requires_grad_(False)
    hf = SimpleNamespace(model=SimpleNamespace(language_model=decoder))
    family = Gemma3(SimpleNamespace(text_config=text))
    spy = AttentionSpy(monkeypatch, family.layers(hf))
    ids_BL = torch.arange(1, 19).reshape(2, 9)
    positions_RBL = torch.arange(9).expand(1, 2, 9)
    with captured_qk(hf, family, (0, 1)) as (q, k):
        decoder(ids_BL, position_ids=family.position_argument(positions_RBL))
    found = {layer: QK(q[layer], k[layer]) for layer in q}
    assert_logits(
        spy, found, lambda x, layer: family.rotate(hf, x, positions_RBL, layer), 2, 32**-0.5
    )


@pytest.mark.parametrize(("hidden", "heads"), [(2560, 32), (5120, 64)])
def test_head_dim_is_the_one_that_a_configuration_states(hidden, heads):
    """Of Qwen3-VL 4B and 32B it is 128; hidden size / heads would be 80."""
    text = {"hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": 8}
    config = Qwen3VLConfig(text_config={**text, "head_dim": 128})
    assert Qwen3VL(config).shape.head_dim == 128


def test_head_dim_is_hidden_size_by_heads_where_none_is_stated(encoder):
    config = tiny_config(encoder.processor.tokenizer, layers=1, heads=4, kv_heads=2, head_dim=16)
    assert family_of(config).shape.head_dim == 16
    config.text_config.head_dim = 64
    assert family_of(config).shape.head_dim == family_of(config).head_facts()["head_dim"] == 64


def test_student_and_teacher_of_two_families_are_refused(qwen3, encoder):
    config = tiny_config(encoder.processor.tokenizer, layers=1, heads=4, kv_heads=2)
    with pytest.raises(
        ValueError, match=r"family: student Qwen2\.5-VL, teacher Qwen3-VL"
    ) as refusal:
        check_pair(config, qwen3.hf.config, {"a": 1}, {"a": 1}, ["laid"])
    assert "mrope_interleaved: student None, teacher True" in str(refusal.value)
