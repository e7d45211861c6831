"""An attention logit is the sum of what rotary pairs contribute, in every family and layer."""

import math
from functools import partial

import torch
from attention_spy import AttentionSpy

from laid.signals.model_signals import Wanted
from laid.spectrum.pair_statistics import SECTIONS, asked_rows, pair_statistics, rotary_pairs


def pair_logits(q_LHD, k_LKD, positions_3L, pairs):
    """``c_LMHF`` of rows L and keys M, by the formula."""
    head_dim = q_LHD.shape[-1]
    q_LHF, k_LKF = (torch.complex(*x.double().chunk(2, dim=-1)) for x in (q_LHD, k_LKD))
    k_LHF = k_LKF.repeat_interleave(q_LHF.shape[1] // k_LKF.shape[1], dim=1)
    axes = SECTIONS[len(positions_3L)]
    position_LF = positions_3L[[axes.index(name) for name in pairs.section]].T.double()
    angle_LMF = torch.tensor(pairs.frequency).double() * (position_LF[:, None] - position_LF)
    turned = torch.polar(torch.ones_like(angle_LMF), angle_LMF)
    return (q_LHF[:, None] * k_LHF.conj() * turned[:, :, None]).real / math.sqrt(head_dim)


@torch.no_grad()
def test_rotary_pairs_add_up_to_the_models_own_attention_logits(vlm, batch, monkeypatch):
    """And mean and variance are those of what each contributes, under the model's attention."""
    spy = AttentionSpy(monkeypatch, vlm.family.layers(vlm.hf))
    inputs = batch(rows=[4])
    layers = tuple(range(vlm.shape.layers))
    found = vlm.signals(inputs, Wanted(layers=layers)).qk
    rows = asked_rows(inputs)
    columns_R = rows.columns_BR[0]
    axes = len(inputs.position_ids_3BL)
    for layer in layers:
        rotate, window = partial(vlm.rotate, layer=layer), vlm.shape.window(layer)
        pairs = rotary_pairs(rotate, axes, vlm.shape.head_dim, torch.device("cpu"))
        qk, positions_3L = found[layer], inputs.position_ids_3BL[:, 0]
        c_LMHF = pair_logits(qk.q[0], qk.k[0], positions_3L, pairs)
        logits_HLM = spy.logits_BHLL[layer][0]
        torch.testing.assert_close(
            c_LMHF.sum(-1).permute(2, 0, 1).float(), logits_HLM, atol=1e-5, rtol=1e-5
        )
        ones_LM = torch.ones(c_LMHF.shape[:2])
        hidden_LM = ones_LM.triu(1) + (ones_LM.tril(-window) if window else 0) > 0
        p_HLM = logits_HLM.double().masked_fill(hidden_LM, -torch.inf).softmax(-1)
        mean_LHF = torch.einsum("hlm,lmhf->lhf", p_HLM, c_LMHF)
        apart_LMHF = (c_LMHF - mean_LHF[:, None]).square()
        variance_LHF = torch.einsum("hlm,lmhf->lhf", p_HLM, apart_LMHF)
        made = pair_statistics(qk, rows.within(window), rotate)
        expected = mean_LHF[columns_R].mean(0), variance_LHF[columns_R].mean(0)
        torch.testing.assert_close((made.mean_HF, made.variance_HF), expected, atol=1e-5, rtol=1e-4)


def test_rotary_pairs_have_the_frequencies_and_sections_of_the_configuration(vlm):
    shape, ropes = vlm.shape, vlm.family.config.text_config.rope_parameters
    pairs = shape.head_dim // 2
    for layer in range(shape.layers):
        rope = ropes[shape.kind(layer)] if shape.kinds else ropes
        rotate = partial(vlm.rotate, layer=layer)
        made = rotary_pairs(rotate, shape.position_rows, shape.head_dim, torch.device("cpu"))
        slower = rope["factor"] if rope["rope_type"] == "linear" else 1
        expected = [rope["rope_theta"] ** (-f / pairs) / slower for f in range(pairs)]
        torch.testing.assert_close(torch.tensor(made.frequency), torch.tensor(expected))
        if shape.position_rows == 1:
            assert set(made.section) == set(SECTIONS[1])
            continue
        sections = dict(zip(SECTIONS[3], rope["mrope_section"], strict=True))
        assert {name: made.section.count(name) for name in sections} == sections
        if rope.get("mrope_interleaved"):
            turns = [n for pair in range(pairs) for n in SECTIONS[3] if pair < sections[n]]
            spent = 3 * min(sections.values())
            assert list(made.section) == [*turns[:spent], *(pairs - spent) * [SECTIONS[3][0]]]
        else:
            assert list(made.section) == sorted(made.section, key=SECTIONS[3].index)
