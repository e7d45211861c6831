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
    pairs = rotary_pairs(vlm.turn, axes, vlm.shape.head_dim, torch.device("cpu"))
    for layer in layers:
        qk, positions_3L = found[layer], inputs.position_ids_3BL[:, 0]
        c_LMHF = pair_logits(qk.q[0], qk.k[0], positions_3L, pairs)
        logits_HLM = spy.logits_BHLL[layer][0]
        torch.testing.assert_close(
            c_LMHF.sum(-1).permute(2, 0, 1).float(), logits_HLM, atol=1e-5, rtol=1e-5
        )
        hidden_LM = torch.ones(c_LMHF.shape[:2]).triu(1).bool()
        p_HLM = logits_HLM.double().masked_fill(hidden_LM, -torch.inf).softmax(-1)
        mean_LHF = torch.einsum("hlm,lmhf->lhf", p_HLM, c_LMHF)
        apart_LMHF = (c_LMHF - mean_LHF[:, None]).square()
        variance_LHF = torch.einsum("hlm,lmhf->lhf", p_HLM, apart_LMHF)
        turn = partial(vlm.family.rotate, vlm.hf, layer=layer)
        made = pair_statistics(qk, rows, turn)
        expected = mean_LHF[columns_R].mean(0), variance_LHF[columns_R].mean(0)
        torch.testing.assert_close((made.mean_HF, made.variance_HF), expected, atol=1e-5, rtol=1e-4)


def test_rotary_pairs_have_the_frequencies_and_sections_of_the_configuration(vlm):
    rope = vlm.family.config.text_config.rope_parameters
    axes = vlm.shape.position_rows
    made = rotary_pairs(vlm.turn, axes, vlm.shape.head_dim, torch.device("cpu"))
    pairs = vlm.shape.head_dim // 2
    expected = [rope["rope_theta"] ** (-f / pairs) for f in range(pairs)]
    torch.testing.assert_close(torch.tensor(made.frequency), torch.tensor(expected))
    if axes == 1:
        assert set(made.section) == set(SECTIONS[1])
        return
    sections = dict(zip(SECTIONS[3], rope["mrope_section"], strict=True))
    assert {name: made.section.count(name) for name in sections} == sections
    if rope.get("mrope_interleaved"):
        turns = [name for pair in range(pairs) for name in SECTIONS[3] if pair < sections[name]]
        spent = 3 * min(sections.values())
        assert list(made.section) == [*turns[:spent], *(pairs - spent) * [SECTIONS[3][0]]]
    else:
        assert list(made.section) == sorted(made.section, key=SECTIONS[3].index)
