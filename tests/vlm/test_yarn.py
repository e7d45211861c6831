"""YaRN with M-RoPE, and which window extension a user has chosen."""

import math

import pytest
import torch
from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRotaryEmbedding

from laid.training.module import LaidModule
from laid.vlm.model_loading import ModelArgs, load_config
from laid.vlm.vision_language_model import VLM
from laid.vlm.window_extension import (
    SelfExtendArgs,
    YarnArgs,
    chosen_extension,
    describe,
    set_rotation,
)


def yarn_frequencies(dim, theta, factor, length):
    """Peng et al. 2023, section 3.2, written anew, with beta 32 and 1 and rounded borders."""

    def pair_that_turns(times):
        return dim * math.log(length / (times * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_that_turns(32)), 0)
    high = min(math.ceil(pair_that_turns(1)), dim - 1)
    found = []
    for pair in range(dim // 2):
        plain = theta ** (-2 * pair / dim)
        share = min(max((pair - low) / (high - low), 0), 1)
        found.append(plain / factor * share + plain * (1 - share))
    return torch.tensor(found)


def change(config, args):
    """How many times slower each rotary pair becomes."""
    plain = Qwen2_5_VLRotaryEmbedding(config.text_config).inv_freq
    set_rotation(config, args)
    rotary = Qwen2_5_VLRotaryEmbedding(config.text_config)
    assert rotary.mrope_section == config.text_config.rope_parameters["mrope_section"]
    return plain / rotary.inv_freq


@pytest.mark.parametrize("random_weights", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loaded_model_has_the_frequencies_of_the_paper(pair, random_weights, dtype):
    """Weights read or drawn: the frequencies are no weights, and are made anew by either way."""
    args = ModelArgs(str(pair[0]), random_weights=random_weights, dtype=dtype)
    rotary = VLM.load(args, extension=YarnArgs(4.0, 64)).hf.model.language_model.rotary_emb
    expected = yarn_frequencies(32, 1e6, 4.0, 64)
    torch.testing.assert_close(rotary.inv_freq, expected, rtol=1e-5, atol=0)
    assert rotary.attention_scaling == pytest.approx(0.1 * math.log(4) + 1)
    assert rotary.mrope_section == [4, 6, 6]
    assert VLM.load(args).hf.model.language_model.rotary_emb.attention_scaling == 1


def test_the_settings_are_replaced_and_the_length_is_the_one_that_was_given(pair):
    config = load_config(ModelArgs(str(pair[0])))
    config.text_config.rope_parameters["type"] = "mrope"
    set_rotation(config, YarnArgs(4, 64))
    assert config.text_config.rope_parameters == {
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "mrope_section": [4, 6, 6],
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    with pytest.raises(ValueError, match="rope_type is yarn already"):
        set_rotation(config, YarnArgs(4, 64))


@pytest.mark.parametrize("size", ["3b", "7b", "32b", "72b"])
def test_of_qwen_only_height_and_width_change(qwen, size):
    config = AutoConfig.from_pretrained(qwen / size)
    slower = change(config, YarnArgs(4.0, 32768))
    assert config.text_config.rope_parameters["mrope_section"] == [16, 24, 24]
    torch.testing.assert_close(slower[:24], torch.ones(24))  # time 0-15, and height to 23
    assert ((slower[24:40] > 1) & (slower[24:40] < 4)).all()  # the rest of height
    torch.testing.assert_close(slower[40:], torch.full((24,), 4.0))  # width


def test_of_a_short_window_the_time_axis_changes_too():
    """The miniature's: 64 positions, 16 pairs, of which time owns 4."""
    config = load_config(ModelArgs("tiny/student"))
    slower = change(config, YarnArgs(4.0, 64))
    torch.testing.assert_close(slower[0], torch.tensor(1.0))
    assert ((slower[1:3] > 1) & (slower[1:3] < 4)).all()
    torch.testing.assert_close(slower[3:], torch.full((13,), 4.0))
    at_32768 = change(load_config(ModelArgs("tiny/student")), YarnArgs(4.0, 32768))
    torch.testing.assert_close(at_32768[:6], torch.ones(6))


@torch.no_grad()
def test_positions_stay_three_dimensional(pair, haystacks):
    """Height and width of an image are different rows: exchanging them changes the states."""
    vlm = VLM.load(ModelArgs(str(pair[0])), extension=YarnArgs(4.0, 64))
    inputs = haystacks(rows=[4]).inputs
    decoder = vlm.hf.model.language_model
    embedded = decoder.embed_tokens(inputs.input_ids_BL)
    found = [
        decoder(inputs_embeds=embedded, position_ids=positions).last_hidden_state
        for positions in (inputs.position_ids_3BL, inputs.position_ids_3BL[[0, 2, 1]])
    ]
    assert (found[0] - found[1]).abs().max() > 1e-3
    stock = Qwen2_5_VLForConditionalGeneration.from_pretrained(pair[0], config=vlm.hf.config)
    again = stock.model.language_model(
        inputs_embeds=embedded, position_ids=inputs.position_ids_3BL
    ).last_hidden_state
    torch.testing.assert_close(found[0], again)


def test_a_factor_of_one_is_the_model_itself(pair, student, haystacks):
    vlm = VLM.load(ModelArgs(str(pair[0])), extension=YarnArgs(1.0, 64))
    inputs = haystacks(with_answer=False, side="left").inputs
    assert torch.equal(vlm.answer(inputs, 6), student.answer(inputs, 6))
    assert vlm.state_dict().keys() == student.state_dict().keys()


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (("none", YarnArgs(4.0, 64), None), "model.yarn is set, but .* is none"),
        (("yarn", YarnArgs(4.0, 64), SelfExtendArgs(2, 8)), "model.self_extend is set"),
        (("self-extend", YarnArgs(4.0, 64), None), "model.yarn is set, but .* is self-extend"),
        (("yarn", None, None), "model.yarn.factor is missing"),
        (("yarn", YarnArgs(factor=4.0), None), "model.yarn.original_length is missing"),
        (("yarn", YarnArgs(0.5, 64), None), "model.yarn.factor 0.5: expected at least 1"),
        (("self-extend", None, SelfExtendArgs(group=4)), "model.self_extend.window is missing"),
        (("self-extend", None, SelfExtendArgs(0, 8)), "model.self_extend.group 0: expected"),
        (("self-extend", None, SelfExtendArgs(2, 8, "time")), "mapping 'time': expected base"),
        (("longer", None, None), "expected one of none, yarn, self-extend"),
    ],
)
def test_a_choice_that_does_not_fit_its_settings_is_refused(chosen, message):
    names = ("window_extension", "yarn", "self_extend")
    with pytest.raises(ValueError, match=message):
        chosen_extension(*chosen)
    with pytest.raises(ValueError, match=message):
        LaidModule(ModelArgs(), **dict(zip(names, chosen, strict=True)))


def test_the_identity_of_a_test_names_the_extension_and_nothing_without_one():
    plain = {"window_extension": "none", "yarn": None, "self_extend": None}
    assert describe(plain) == {}
    yarn = {"factor": 4.0, "original_length": 64}
    assert describe({**plain, "window_extension": "yarn", "yarn": yarn}) == {
        "window": {"extension": "yarn", **yarn}
    }
