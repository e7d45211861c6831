"""InternVL3: tiles and a thumbnail, dynamic NTK, pairs that don't fit."""

import pytest
import torch
from PIL import Image
from tiny_families import CASES, internvl_processor, tiny_internvl
from transformers import InternVLConfig

from laid.miniature.tiny_models import tiny_model
from laid.planning.planned_inputs import haystack_inputs
from laid.signals.model_signals import Wanted
from laid.vlm.families.internvl import InternVL
from laid.vlm.pair_check import check_pair
from laid.vlm.processor import ImageTextProcessor
from laid.vlm.self_extend import set_self_extend
from laid.vlm.vision_language_model import VLM
from laid.vlm.window_extension import SelfExtendArgs, YarnArgs, set_rotation

TILE = 56 * 56


@pytest.fixture(scope="module")
def processor():
    stock = internvl_processor()
    return ImageTextProcessor(InternVL(config_of(stock.tokenizer)), stock)


def config_of(tokenizer, **text) -> InternVLConfig:
    config = tiny_internvl(tokenizer, layers=2, heads=4, kv_heads=2)
    for key, value in text.items():
        setattr(config.text_config, key, value)
    return config


def tiles_of(processor, size, least=None, most=None):
    stock = internvl_processor()
    processor.family.limit_pixels(stock, least, most)
    _, grid_I3 = processor.family.pieces(stock, [Image.new("RGB", size)])
    assert tuple(grid_I3[0].tolist()) == processor.family.planned_grid(*size, least, most)
    return int(grid_I3[0, 0])


def test_pixel_limits_are_numbers_of_tiles_and_the_thumbnail_is_beside_them(processor):
    assert tiles_of(processor, (640, 480)) == 12 + 1
    assert tiles_of(processor, (640, 480), most=TILE) == 1
    assert tiles_of(processor, (640, 320), most=3 * TILE - 1) == 2 + 1
    assert tiles_of(processor, (200, 50), most=4 * TILE) == 4 + 1
    assert tiles_of(processor, (50, 50), least=4 * TILE, most=4 * TILE) == 4 + 1


@pytest.mark.parametrize(("least", "most"), [(None, TILE - 1), (3 * TILE, 2 * TILE), (0, None)])
def test_limits_that_no_number_of_tiles_keeps_are_refused(processor, least, most):
    with pytest.raises(ValueError, match=r"tiles of 56 x 56 pixels; expected 1 or more"):
        processor.family.limit_pixels(internvl_processor(), least, most)


@pytest.fixture
def short(processor):
    """A model whose window is 20 positions, built as laid does."""
    torch.manual_seed(0)
    hf = tiny_model(config_of(processor.tokenizer, max_position_embeddings=20)).eval()
    InternVL(hf.config).built(hf)
    return VLM(hf).requires_grad_(False)


def haystack(vlm, images):
    made = haystack_inputs(vlm.hf.config, images, (1, 1, 1), 1, with_answer=True)
    made.pixel_values_PC.normal_(generator=torch.Generator().manual_seed(1))
    return made


def test_a_pass_beyond_the_window_rotates_by_its_own_length_whatever_came_before(short):
    """transformers' own first pass, and then again, where it would keep what a longer one left."""
    torch.manual_seed(0)
    stock = tiny_model(short.hf.config).eval()
    inputs, longer = haystack(short, 2), haystack(short, 9)
    for one in (longer, inputs, longer, inputs):
        short.signals(one, Wanted(logits=True))
        short.signals(haystack(short, 1), Wanted(logits=True))
    arguments = {**short.family.arguments(inputs), "pixel_values": inputs.pixel_values_PC}
    with torch.no_grad():
        expected = stock(**arguments).logits
        torch.testing.assert_close(short.hf(**short._arguments(inputs)).logits, expected)
        stock(**short.family.arguments(longer), pixel_values=longer.pixel_values_PC)
        assert (stock(**arguments).logits - expected).abs().max() > 1e-4


def test_attention_beyond_the_window_is_not_computed_from_queries_and_keys(short):
    inputs = haystack(short, 2)
    found = short.signals(inputs, Wanted(layers=(0,))).qk[0]
    with pytest.raises(ValueError, match=r"max_position_embeddings 20: its rotation \(dynamic"):
        short.rotate(found.q, inputs.position_ids_3BL)
    short.rotate(found.q[:, :20], inputs.position_ids_3BL[..., :20])


def longlm(attention, x_LE, window, group):
    """LongLM's attention over one prompt, pair by pair, with RoPE of the default type."""
    length, dim = len(x_LE), attention.head_dim
    q, k, v = (
        projection(x_LE).unflatten(-1, (-1, dim))
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    k, v = (one.repeat_interleave(attention.num_key_value_groups, dim=1) for one in (k, v))
    frequencies = 1e6 ** (-torch.arange(0, dim, 2) / dim)

    def rotated(x_HD, position):
        cos, sin = (position * frequencies).cos(), (position * frequencies).sin()
        first, second = x_HD.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    out = []
    for i in range(length):
        scores = []
        for j in range(i + 1):
            near, far = (i, j), (i // group + window - window // group, j // group)
            of_query, of_key = near if i - j < window else far
            scores.append((rotated(q[i], of_query) * rotated(k[j], of_key)).sum(-1))
        weights_HS = (torch.stack(scores, dim=-1) * dim**-0.5).softmax(-1)
        out.append(torch.einsum("hs,shd->hd", weights_HS, v[: i + 1]))
    return attention.o_proj(torch.stack(out).flatten(1))


@pytest.mark.parametrize("mapping", ["base", "axis"])
@torch.no_grad()
def test_self_extend_is_longlms_formula_in_place_of_dynamic_ntk(processor, mapping):
    """Within the model's window and beyond it, which is 20 positions here."""
    args = SelfExtendArgs(group=4, window=9, mapping=mapping)
    config = config_of(processor.tokenizer, max_position_embeddings=20)
    set_rotation(config, args)
    torch.manual_seed(0)
    vlm = VLM(tiny_model(config).eval())
    set_self_extend(vlm.hf, args)
    vlm.family.built(vlm.hf)
    seen = []
    for layer in vlm.family.layers(vlm.hf):
        layer.self_attn.register_forward_hook(
            lambda attention, _, given, out: seen.append((attention, given, out[0][0])),
            with_kwargs=True,
        )
    vlm.signals(haystack(vlm, 2), Wanted(logits=True))
    assert len(seen) == 2
    for attention, given, out_LE in seen:
        assert len(out_LE) > 40
        expected = longlm(attention, given["hidden_states"][0], args.window, args.group)
        torch.testing.assert_close(out_LE, expected, rtol=1e-4, atol=1e-5)


def test_yarn_takes_the_place_of_dynamic_ntk(processor):
    config = config_of(processor.tokenizer)
    set_rotation(config, YarnArgs(factor=4, original_length=32_768))
    assert config.text_config.rope_parameters == {
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 4.0,
        "original_max_position_embeddings": 32_768,
    }


def test_1b_and_9b_do_not_fit_larger_ones(processor):
    ids, config = processor.tokenizer.get_vocab(), config_of(processor.tokenizer)
    check_pair(config, config, ids, ids, ["laid"])
    one = config_of(processor.tokenizer, hidden_size=128, num_attention_heads=8)
    check_pair(one, config, ids, ids, [])
    with pytest.raises(ValueError, match="head_dim: student 16, teacher 32"):
        check_pair(one, config, ids, ids, ["laid"])
    nine = config_of(processor.tokenizer, model_type="llama")
    with pytest.raises(ValueError, match="do not fit together") as refusal:
        check_pair(nine, config, {**ids, "<other>": len(ids)}, ids, [])
    assert "text model_type: student llama, teacher qwen2" in str(refusal.value)
    assert "tokenizer: 1 tokens have other ids" in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "value"), [("factor", 4.0), ("rope_theta", 1e4), ("max_position_embeddings", 4096)]
)
def test_every_part_of_dynamic_ntk_is_compared(processor, key, value):
    ours, theirs = config_of(processor.tokenizer), config_of(processor.tokenizer)
    if key in theirs.text_config.rope_parameters:
        theirs.text_config.rope_parameters[key] = value
    else:
        setattr(theirs.text_config, key, value)
    with pytest.raises(ValueError, match=f"{key}: student"):
        check_pair(ours, theirs, {}, {}, ["laid"])


def test_the_hubs_name_of_the_head_is_known():
    assert InternVL.parameter_name("language_model.lm_head.weight") == "lm_head.weight"
    assert CASES[InternVL].hub_name("lm_head.weight") == "language_model.lm_head.weight"
