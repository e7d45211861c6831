"""Eq. 3, 5 and 7: mixing weights and head-level alignment."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from bare_entry import BARE
from torch.autograd import gradcheck
from torch.testing import assert_close

from laid.common.errors import UserError
from laid.losses.alignment import AlignmentArgs, alignment_loss
from laid.losses.head_mixing import HeadMixing, MixingArgs, mixture
from laid.losses.layer_pairs import layer_pairs
from laid.losses.term import CalibrationData, ModelPair
from laid.signals.model_signals import QK, Signals
from laid.signals.token_choice import tokens_named

B, L, S, T, D = 3, 5, 4, 6, 8


def tensors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    q_s = torch.randn(B, L, S, D, generator=generator, dtype=dtype)
    q_t = torch.randn(B, L, T, D, generator=generator, dtype=dtype)
    weights = torch.randn(S, T, generator=generator, dtype=dtype)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    return q_s, q_t, weights, mask


def mixed(weights, q_t):
    return torch.einsum("st,bltd->blsd", weights, q_t)


def mix(weights):
    return partial(mixed, weights)


def test_sum_is_equation_7_to_the_letter():
    q_s, q_t, weights, mask = tensors()
    expected = 0.0
    for b in range(B):
        for i in range(S):
            for token in range(L):
                if mask[b, token]:
                    target = sum(weights[i, j] * q_t[b, token, j] for j in range(T))
                    expected += ((q_s[b, token, i] - target) ** 2).sum()
    loss = alignment_loss(q_s, mix(weights), q_t, mask, AlignmentArgs(reduction="sum"))
    torch.testing.assert_close(loss, expected / B)


def test_mean_is_relative_to_the_teachers_power():
    q_s, q_t, weights, mask = tensors()
    rows = []
    for b in range(B):
        n = int(mask[b].sum())
        error = (q_s[b, :n] - mixed(weights, q_t)[b, :n]).square().mean()
        rows.append(error / q_t[b, :n].square().mean())
    loss = alignment_loss(q_s, mix(weights), q_t, mask, AlignmentArgs())
    torch.testing.assert_close(loss, torch.stack(rows).mean())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_size_of_the_models_numbers_does_not_matter_when_normalised(reduction):
    q_s, q_t, weights, mask = tensors()
    args = AlignmentArgs(reduction=reduction)
    one = alignment_loss(q_s, mix(weights), q_t, mask, args)
    ten = alignment_loss(10 * q_s, mix(weights), 10 * q_t, mask, args)
    torch.testing.assert_close(ten, one if reduction == "mean" else 100 * one)


@pytest.mark.parametrize("args", [AlignmentArgs(), AlignmentArgs(reduction="sum")])
def test_padding_never_counts(args):
    q_s, q_t, weights, mask = tensors()
    loss = alignment_loss(q_s, mix(weights), q_t, mask, args)
    noise = torch.where(mask[..., None, None] == 1, 0.0, 1e4)
    noisy = alignment_loss(q_s + noise, mix(weights), q_t + noise, mask, args)
    torch.testing.assert_close(noisy, loss)


def test_a_batch_is_the_mean_of_its_rows():
    q_s, q_t, weights, mask = tensors()
    args = AlignmentArgs()
    rows = [
        alignment_loss(q_s[b : b + 1], mix(weights), q_t[b : b + 1], mask[b : b + 1], args)
        for b in range(B)
    ]
    whole = alignment_loss(q_s, mix(weights), q_t, mask, args)
    torch.testing.assert_close(whole, torch.stack(rows).mean())


@pytest.mark.parametrize("args", [AlignmentArgs(), AlignmentArgs(reduction="sum")])
def test_gradient_is_that_of_finite_differences(args):
    q_s, q_t, weights, mask = tensors(torch.float64)

    def loss(q_s, weights):
        return alignment_loss(q_s, mix(weights), q_t, mask, args)

    inputs = (q_s.requires_grad_(), weights.requires_grad_())
    # The loss is quadratic, so central differences are exact for steps as wide as float32 wants.
    assert gradcheck(loss, inputs, eps=1e-2, atol=2e-2, rtol=2e-2)


def test_the_loss_is_the_same_before_and_after_rope(student, haystacks):
    """Eq. 3 against Eq. 5, with the model's own M-RoPE at the positions of a real haystack."""
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

    inputs = haystacks().inputs
    batch, length = inputs.input_ids_BL.shape
    generator = torch.Generator().manual_seed(1)
    q_s = torch.randn(batch, length, S, 32, generator=generator)
    q_t = torch.randn(batch, length, T, 32, generator=generator)
    weights = torch.randn(S, T, generator=generator)
    cos, sin = student.hf.model.language_model.rotary_emb(q_s, inputs.position_ids_3BL)

    def rotated(x):
        x = x.transpose(1, 2)
        return apply_rotary_pos_emb(x, x, cos, sin)[0].transpose(1, 2)

    args, mask = AlignmentArgs(reduction="sum"), inputs.attention_mask_BL
    plain = alignment_loss(q_s, mix(weights), q_t, mask, args)
    turned = alignment_loss(rotated(q_s), mix(weights), rotated(q_t), mask, args)
    assert not torch.allclose(rotated(q_s), q_s, atol=1e-2)
    torch.testing.assert_close(turned, plain, rtol=1e-5, atol=0)


@pytest.mark.parametrize("initial", ["uniform", "one-hot"])
def test_softmax_rows_sum_to_one(initial):
    mixing = HeadMixing(S, T, D, MixingArgs(normalisation="softmax", initial=initial))
    torch.testing.assert_close(mixing.weights().sum(-1), torch.ones(S))
    assert (mixing.weights() >= 0).all()


def test_one_hot_begins_at_the_head_in_the_same_place_with_its_share():
    weights = HeadMixing(4, 8, 2, MixingArgs(initial="one-hot", one_hot_share=0.7)).weights()
    assert weights.argmax(-1).tolist() == [0, 2, 4, 6]
    torch.testing.assert_close(weights.max(-1).values, torch.full((4,), 0.7))
    free = HeadMixing(4, 8, 2, MixingArgs(normalisation="none", initial="one-hot")).weights()
    assert sorted(free.unique().tolist()) == [0.0, 1.0]


@pytest.mark.parametrize("share", [0.1, 1.0, 2.0])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(ValueError, match="one_hot_share"):
        HeadMixing(4, 8, 2, MixingArgs(one_hot_share=share))


def test_uniform_is_the_mean_of_the_teachers_heads():
    q_t = tensors()[1]
    for normalisation in ("softmax", "none"):
        mixing = HeadMixing(S, T, D, MixingArgs(normalisation=normalisation, initial="uniform"))
        expected = q_t.mean(2, keepdim=True).expand(B, L, S, D)
        torch.testing.assert_close(mixture(mixing(), q_t), expected)


def test_grouped_query_attention_has_a_matrix_for_queries_and_one_for_keys(alignment):
    own = alignment(layers=[(0, 0), (1, 1)])
    assert {k: tuple(m.values_ST.shape) for k, m in own.matrices().items()} == {
        "q0": (4, 6), "q1": (4, 6), "k0": (2, 3), "k1": (2, 3),
    }  # fmt: skip


def test_every_matrix_says_what_it_is(alignment):
    titles = [m.title for m in alignment(layers=[(0, 0), (1, 1)]).matrices().values()]
    assert titles == ["queries, pair 0", "queries, pair 1", "keys, pair 0", "keys, pair 1"]


def test_shared_keys_are_repeated_to_the_query_heads(alignment):
    shared = alignment(keys="shared", initial="uniform")
    assert list(shared.matrices()) == ["q0"]
    ours = QK(torch.randn(B, L, 4, D), torch.randn(B, L, 2, D))
    theirs = QK(torch.randn(B, L, 6, D), torch.randn(B, L, 3, D))
    ((s, t),) = shared.pairs
    mask = torch.ones(B, L)
    inputs = SimpleNamespace(attention_mask_BL=mask)
    loss = shared(Signals({s: ours}, None), Signals({t: theirs}, None), inputs)
    repeated = ours.k[:, :, [0, 0, 1, 1]], theirs.k[:, :, [0, 0, 1, 1, 2, 2]]
    by_weights = partial(mixture, shared.q[0].weights())
    expected = alignment_loss(ours.q, by_weights, theirs.q, mask, shared.args)
    expected += alignment_loss(repeated[0], by_weights, repeated[1], mask, shared.args)
    torch.testing.assert_close(loss, expected)


def test_layer_pairs(pair_of):
    def named(layers, student=28, teacher=64):
        return layer_pairs(layers, pair_of((student, 4, 2), (teacher, 6, 3)), "layers")

    assert named("final") == [(27, 63)]
    assert named("all", 3, 4) == [(0, 0), (1, 2), (2, 3)]
    every = named("all")
    assert [s for s, _ in every] == list(range(28))
    assert every[0] == (0, 0)
    assert every[-1] == (27, 63)
    assert named("all", 1, 4) == [(0, 3)]
    assert named([(0, 1), (2, 3)], 3, 4) == [(0, 1), (2, 3)]
    for layers, message in (
        ([(28, 63)], "no pair .28, 63."),
        ([(0, -1)], "0 to 63"),
        ([], "empty"),
        ([(1, 1), (1, 1)], "twice"),
    ):
        with pytest.raises(UserError, match=message):
            named(layers)


@pytest.mark.parametrize("tokens", ["question", "sample:20", "sample:100000"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_both_models_are_compared_at_the_chosen_tokens_alone(
    student, teacher, haystacks, tokens, reduction
):
    """As if there were no others; whatever stands there, and as all tokens where it is all. An
    entry without images has no question, and its other tokens as any entry."""
    inputs = haystacks(rows=[0, BARE, 3]).inputs
    models = ModelPair(student.shape, teacher.shape, 700, student.rotate, teacher.rotate)
    term = AlignmentArgs(tokens=tokens, reduction=reduction).build(models)
    whole = AlignmentArgs(reduction=reduction).build(models)
    assert term.of_teacher.keys == term.of_teacher.queries == tokens_named(tokens, "")
    with torch.no_grad():
        signals = student.signals(inputs, term.of_student), teacher.signals(inputs, term.of_teacher)
        mask_BL = term.of_teacher.keys.mask(inputs)
        only = replace(inputs, attention_mask_BL=mask_BL.long())
        assert_close(term(*signals, inputs), whole(*signals, only))
        for one in signals:
            for qk in one.qk.values():
                qk.q[~mask_BL], qk.k[~mask_BL] = 7.0, -7.0
        assert_close(term(*signals, inputs), whole(*signals, only))
        if tokens == "sample:100000":
            assert_close(term(*signals, inputs), whole(*signals, inputs))
        alone = haystacks(rows=[BARE]).inputs
        signals = student.signals(alone, term.of_student), teacher.signals(alone, term.of_teacher)
        assert (term(*signals, alone) == 0) == (tokens == "question")


def test_mixing_weights_are_fitted_at_the_chosen_tokens(student, teacher, haystacks):
    inputs = haystacks(rows=[0, 3]).inputs
    models = ModelPair(student.shape, teacher.shape, 700, student.rotate, teacher.rotate)
    mixing = MixingArgs(normalisation="none", initial="least-squares")
    fitted = []
    for tokens in ("all", "sample:20"):
        term = AlignmentArgs(tokens=tokens, mixing=mixing).build(models)
        chosen = inputs
        if tokens == "all":
            mask_BL = tokens_named("sample:20", "").mask(inputs)
            chosen = replace(inputs, attention_mask_BL=mask_BL.long())

        def of(vlm, wanted):
            with torch.no_grad():
                return vlm.signals(inputs, wanted)

        term.calibrate(
            CalibrationData([chosen], lambda _, w: of(student, w), lambda _, w: of(teacher, w))
        )
        fitted.append(term.q[0].weights())
    assert_close(*fitted)
