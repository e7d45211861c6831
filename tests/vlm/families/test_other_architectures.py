"""What the seam must hold for families to come: norms after the transpose, local layers."""

from types import SimpleNamespace

import torch
from attention_spy import AttentionSpy
from transformers import (
    Gemma3TextConfig,
    Gemma3TextModel,
)
from transformers.models.gemma3 import modeling_gemma3

from laid.miniature.tiny_models import tiny_config
from laid.signals.model_signals import QK
from laid.vlm.families.qwen2_5_vl import Qwen25VL
from laid.vlm.families.registry import family_of
from laid.vlm.qk_capture import captured_qk


def assert_logits(spy, found, turn, groups, scaling):
    assert sorted(spy.logits_BHLL) == sorted(found)
    for layer, qk in found.items():
        q, k = (turn(x, layer) for x in (qk.q, qk.k))
        k = k.repeat_interleave(groups, dim=2)
        ours = torch.einsum("bqhd,bkhd->bhqk", q, k) * scaling
        torch.testing.assert_close(ours, spy.logits_BHLL[layer], atol=1e-5, rtol=1e-5)


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


def test_head_dim_is_hidden_size_by_heads_where_none_is_stated(encoder):
    config = tiny_config(encoder.processor.tokenizer, layers=1, heads=4, kv_heads=2, head_dim=16)
    assert family_of(config).shape.head_dim == 16
    config.text_config.head_dim = 64
    assert family_of(config).shape.head_dim == family_of(config).head_facts()["head_dim"] == 64
