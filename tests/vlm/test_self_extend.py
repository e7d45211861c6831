"""SelfExtend: exact against a dense reference and against stock attention, with a cache or not."""

import pytest
import torch

from laid.signals.model_signals import Wanted
from laid.vlm.model_loading import ModelArgs
from laid.vlm.self_extend import ROWS, attend, far_positions
from laid.vlm.vision_language_model import VLM
from laid.vlm.window_extension import SelfExtendArgs

EVERYTHING = 10**6
"""A window that nothing is outside of."""


def load(pair, **settings):
    return VLM.load(ModelArgs(str(pair[0])), extension=SelfExtendArgs(**settings))


def decoder_states(vlm, inputs, **more):
    """The decoder's last hidden states, with padding zeroed."""
    states = vlm.hf.model(
        input_ids=inputs.input_ids_BL,
        attention_mask=inputs.attention_mask_BL,
        position_ids=inputs.position_ids_3BL,
        pixel_values=inputs.pixel_values_PC,
        image_grid_thw=inputs.image_grid_thw_I3,
        **more,
    ).last_hidden_state
    return states * inputs.attention_mask_BL[..., None]


def dense(vlm, args, layer, x_BLE, positions_3BL, mask_BL):
    """Attention of one layer as the definition has it: all scores of both kinds, torch.where."""
    block = vlm.hf.model.language_model.layers[layer].self_attn
    rotary = vlm.hf.model.language_model.rotary_emb.rotary
    length, dim = x_BLE.shape[1], block.head_dim
    q, k, v = (
        projection(x_BLE).unflatten(-1, (-1, dim)).transpose(1, 2)
        for projection in (block.q_proj, block.k_proj, block.v_proj)
    )
    k, v = (one.repeat_interleave(block.num_key_value_groups, dim=1) for one in (k, v))

    def rotated(one, positions):
        cos, sin = (part[:, None] for part in rotary(x_BLE, positions))
        half = torch.cat([-one[..., dim // 2 :], one[..., : dim // 2]], dim=-1)
        return one * cos + half * sin

    base = positions_3BL[:1]
    if args.mapping == "axis":
        far_k = positions_3BL.div(args.group, rounding_mode="floor")
    else:
        far_k = base.div(args.group, rounding_mode="floor") + (positions_3BL - base)
    span = torch.zeros_like(base)
    for i in range(args.window, length):
        span[..., i] = base[..., i] - base[..., i - args.window]
    far_q = far_k + span - span.div(args.group, rounding_mode="floor")
    i, j = torch.arange(length)[:, None], torch.arange(length)
    scores = torch.where(
        i - j < args.window,
        rotated(q, positions_3BL) @ rotated(k, positions_3BL).mT,
        rotated(q, far_q) @ rotated(k, far_k).mT,
    )
    seen = (j <= i) & mask_BL[:, None, None].bool()
    scores = (scores * dim**-0.5).masked_fill(~seen, -1e9)
    return block.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("mapping", ["base", "axis"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("window", "group"), [(1, 2), (7, 3), (20, 8)])
@torch.no_grad()
def test_every_layer_is_the_dense_definition(pair, haystacks, mapping, side, window, group):
    """A padded batch, two query heads to a KV head, images: what M-RoPE makes of positions."""
    args = SelfExtendArgs(group=group, window=window, mapping=mapping)
    vlm = VLM.load(ModelArgs(str(pair[0])), extension=args)
    inputs = haystacks(side=side).inputs
    mask = inputs.attention_mask_BL
    assert (mask == 0).any()
    seen = {}
    for index, layer in enumerate(vlm.hf.model.language_model.layers):
        layer.self_attn.register_forward_hook(
            lambda _m, _a, kwargs, out, index=index: seen.update(
                {index: (kwargs["hidden_states"], out[0])}
            ),
            with_kwargs=True,
        )
    decoder_states(vlm, inputs)
    for index, (x, out) in seen.items():
        expected = dense(vlm, args, index, x, inputs.position_ids_3BL, mask)
        torch.testing.assert_close(out[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mapping", ["base", "axis"])
@pytest.mark.parametrize(
    "settings", [{"window": EVERYTHING, "group": 4}, {"window": 5, "group": 1}]
)
@torch.no_grad()
def test_a_window_over_everything_and_groups_of_one_are_stock_attention(
    pair, student, haystacks, settings, mapping
):
    vlm = load(pair, **settings, mapping=mapping)
    for side in ("left", "right"):
        inputs = haystacks(side=side).inputs
        torch.testing.assert_close(
            decoder_states(vlm, inputs), decoder_states(student, inputs), rtol=1e-4, atol=1e-5
        )
    inputs = haystacks(with_answer=False, side="left").inputs
    assert torch.equal(vlm.answer(inputs, 6), student.answer(inputs, 6))
    inputs = haystacks().inputs
    wanted = Wanted(layers=(0, 1), logits=True)
    ours, stock = vlm.signals(inputs, wanted), student.signals(inputs, wanted)
    torch.testing.assert_close(ours.logits_NV, stock.logits_NV, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_grouping_changes_what_the_model_says(pair, student, haystacks):
    inputs = haystacks().inputs
    stock = decoder_states(student, inputs)
    seen = [stock]
    for mapping in ("base", "axis"):
        seen.append(decoder_states(load(pair, window=7, group=4, mapping=mapping), inputs))
    for at, one in enumerate(seen):
        for other in seen[at + 1 :]:
            assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("mapping", ["base", "axis"])
@torch.no_grad()
def test_answers_with_a_cache_are_those_without(pair, haystacks, mapping):
    """Greedy decoding of a left-padded batch, against the whole forward anew for every token."""
    vlm = load(pair, window=9, group=3, mapping=mapping)
    inputs = haystacks(with_answer=False, side="left").inputs
    arguments = {"image_grid_thw": inputs.image_grid_thw_I3}
    made = vlm.hf.generate(
        input_ids=inputs.input_ids_BL,
        attention_mask=inputs.attention_mask_BL,
        mm_token_type_ids=inputs.mm_token_type_ids_BL,
        pixel_values=inputs.pixel_values_PC,
        **arguments,
        max_new_tokens=12,
        min_new_tokens=12,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    new = made.sequences[:, inputs.input_ids_BL.shape[1] :]
    ones = torch.ones_like(new)
    whole = vlm.hf(
        input_ids=made.sequences,
        attention_mask=torch.cat([inputs.attention_mask_BL, ones], dim=1),
        mm_token_type_ids=torch.cat([inputs.mm_token_type_ids_BL, 0 * ones], dim=1),
        pixel_values=inputs.pixel_values_PC,
        **arguments,
        use_cache=False,
    ).logits[:, -13:-1]
    assert len(set(new.flatten().tolist())) > 1
    torch.testing.assert_close(torch.stack(made.logits, dim=1), whole, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_prompt_in_pieces_says_what_it_says_whole(pair, haystacks):
    """A cache that is gone on with by several tokens, and one that was cut."""
    from transformers import DynamicCache

    vlm = load(pair, window=9, group=3)
    inputs = haystacks(rows=[4]).inputs
    decoder = vlm.hf.model.language_model
    embedded = decoder.embed_tokens(inputs.input_ids_BL)
    positions = inputs.position_ids_3BL
    whole = decoder(inputs_embeds=embedded, position_ids=positions).last_hidden_state
    cache = DynamicCache(config=vlm.hf.config.text_config)
    found, length = [], embedded.shape[1]
    for start, stop in [(0, 10), (10, 11), (11, length)]:
        piece = slice(start, stop)
        found.append(
            decoder(
                inputs_embeds=embedded[:, piece],
                position_ids=positions[..., piece],
                past_key_values=cache,
            ).last_hidden_state
        )
    torch.testing.assert_close(torch.cat(found, dim=1), whole, rtol=1e-4, atol=1e-5)
    cache.crop(15 - length)
    again = decoder(
        inputs_embeds=embedded[:, 15:], position_ids=positions[..., 15:], past_key_values=cache
    ).last_hidden_state
    torch.testing.assert_close(again, whole[:, 15:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_and_company_change_nothing(pair, haystacks):
    vlm = load(pair, window=7, group=3)
    together = haystacks(side="left").inputs
    whole = decoder_states(vlm, together)
    for row in range(6):
        alone = decoder_states(vlm, haystacks(rows=[row]).inputs)
        torch.testing.assert_close(whole[row, -alone.shape[1] :], alone[0], rtol=1e-4, atol=1e-5)


def test_in_text_the_positions_are_those_of_the_paper():
    """q_pos = p // G + W - W // G and k_pos = p // G, for a query that has far tokens at all."""
    positions = torch.arange(300).expand(3, 2, 300)
    for mapping in ("base", "axis"):
        args = SelfExtendArgs(group=8, window=50, mapping=mapping)
        query, key = far_positions(positions, args)
        assert torch.equal(key, positions // 8)
        assert torch.equal(query[..., 50:], (positions // 8 + 50 - 50 // 8)[..., 50:])


@pytest.mark.parametrize("mapping", ["base", "axis"])
def test_over_images_far_distances_go_on_where_the_window_ends(haystacks, mapping):
    """No gap and no step back: just outside the window, the distance is the window's own span."""
    inputs = haystacks(rows=[4]).inputs
    positions = inputs.position_ids_3BL
    assert not torch.equal(positions[0], positions[1])
    window, group = 12, 3
    args = SelfExtendArgs(group=group, window=window, mapping=mapping)
    query, key = far_positions(positions, args)
    for i in range(window, positions.shape[-1]):
        span = positions[0, 0, i] - positions[0, 0, i - window]
        grouped = query[0, 0, i] - key[0, 0, : i - window + 1]
        assert abs(grouped[-1] - span) <= 1  # the floors may add one
        assert (grouped.diff() <= 0).all()  # older is farther
        assert grouped[0] <= span + (positions[0, 0, i] - span) // group + 1


def test_base_keeps_the_layout_of_an_image_and_axis_does_not():
    """An image of 4 x 6 visual tokens that begins at position 11."""
    height, width = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    image = torch.stack([torch.zeros(24, dtype=torch.long), height.flatten(), width.flatten()]) + 11
    settings = {"group": 4, "window": 2}
    _, kept = far_positions(image[:, None], SelfExtendArgs(**settings, mapping="base"))
    _, coarse = far_positions(image[:, None], SelfExtendArgs(**settings, mapping="axis"))
    assert torch.equal(kept - kept[:1], image[:, None] - 11)
    assert len({tuple(place) for place in coarse[:, 0].T.tolist()}) == 2 * 3
    assert int(kept[0, 0, 0]) == 11 // 4


@pytest.mark.parametrize("window", [1, ROWS - 1, ROWS, 3 * ROWS, EVERYTHING])
@pytest.mark.parametrize("length", [1, ROWS, 2 * ROWS + 3])
def test_blocks_of_any_alignment_are_one_softmax(window, length):
    generator = torch.Generator().manual_seed(window + length)
    total = length + 70

    def draw(heads, tokens):
        return torch.randn(2, heads, tokens, 8, generator=generator)

    q_near, q_far = draw(4, length), draw(4, length)
    k_near, k_far, v = draw(2, total), draw(2, total), draw(2, total)
    real = torch.ones(2, total, dtype=torch.bool)
    real[1, :30] = False
    i, j = torch.arange(total - length, total)[:, None], torch.arange(total)
    wide = [one.repeat_interleave(2, dim=1) for one in (k_near, k_far, v)]
    scores = torch.where(i - j < window, q_near @ wide[0].mT, q_far @ wide[1].mT) * 0.3
    scores = scores.masked_fill(~((j <= i) & real[:, None, None]), float("-inf"))
    expected = (scores.softmax(-1) @ wide[2]).transpose(1, 2)
    found = attend(q_near, q_far, k_near, k_far, v, window, 0.3, real)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_weights_and_the_vision_tower_are_those_of_the_model(pair, student, haystacks):
    vlm = load(pair, window=7, group=3)
    state = student.state_dict()
    assert vlm.state_dict().keys() == state.keys()
    vlm.load_state_dict(state)
    inputs = haystacks().inputs
    ours, theirs = (
        one.hf.get_image_features(inputs.pixel_values_PC, inputs.image_grid_thw_I3).pooler_output
        for one in (vlm, student)
    )
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@torch.no_grad()
def test_low_precision_weights_work(pair, haystacks):
    args = SelfExtendArgs(group=3, window=9)
    vlm = VLM.load(ModelArgs(str(pair[0]), dtype="bfloat16"), extension=args)
    inputs = haystacks(side="left").inputs
    low = decoder_states(vlm, inputs).float()
    full = decoder_states(load(pair, group=3, window=9), inputs)
    assert low.isfinite().all()
    assert (
        torch.nn.functional.cosine_similarity(low, full, dim=-1)[
            inputs.attention_mask_BL.bool()
        ].min()
        > 0.99
    )
