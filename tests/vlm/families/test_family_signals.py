"""Queries, keys and losses of every family, against its own forward pass."""

from functools import partial

import pytest
import torch
from attention_spy import AttentionSpy
from tiny_families import CASES

from laid.losses.alignment import AlignmentArgs, alignment_loss
from laid.losses.cross_entropy import CrossEntropyArgs
from laid.losses.divergence import DivergenceArgs
from laid.losses.head_mixing import mixture
from laid.losses.term import ModelPair
from laid.signals.model_signals import Wanted
from laid.training.objective import Objective, ObjectiveArgs
from laid.vlm.families.registry import FAMILIES
from laid.vlm.model_loading import ModelArgs
from laid.vlm.vision_language_model import VLM


def test_every_family_is_tried():
    assert set(CASES) == set(FAMILIES.values())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_captured_queries_and_keys_make_the_models_own_attention_logits(
    models, batch, monkeypatch, attention
):
    vlm = VLM.load(ModelArgs(str(models[0]), attn_implementation=attention))
    inputs = batch()
    spy = AttentionSpy(monkeypatch, vlm.family.layers(vlm.hf))
    found = vlm.signals(inputs, Wanted(layers=(0, 1))).qk
    assert sorted(spy.logits_BHLL) == sorted(found) == [0, 1]
    shape = vlm.shape
    for layer, qk in found.items():
        assert qk.q.shape[2:] == (shape.heads, shape.head_dim)
        assert qk.k.shape[2:] == (shape.kv_heads, shape.head_dim)
        rotate = partial(vlm.family.rotate, vlm.hf, layer=layer)
        q, k = (rotate(x, inputs.position_ids_3BL) for x in (qk.q, qk.k))
        k = k.repeat_interleave(shape.heads // shape.kv_heads, dim=2)
        ours = torch.einsum("bqhd,bkhd->bhqk", q, k) / shape.head_dim**0.5
        torch.testing.assert_close(ours, spy.logits_BHLL[layer], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_positions_are_those_that_the_model_makes_itself(vlm, batch):
    """In its forward pass, given everything but positions."""
    arguments = vlm._arguments(batch(rows=[4]))
    given = vlm.hf(**arguments).logits
    del arguments["position_ids"]
    assert torch.equal(vlm.hf(**arguments).logits, given)


@torch.no_grad()
def test_the_loss_is_the_same_before_and_after_rope(vlm, teacher, batch):
    """Eq. 3 against Eq. 5, of queries and keys, each turned by its own model."""
    inputs, wanted = batch(), Wanted(layers=(0,))
    args, mask = AlignmentArgs(reduction="sum"), inputs.attention_mask_BL
    ours, theirs = vlm.signals(inputs, wanted).qk[0], teacher.signals(inputs, wanted).qk[0]
    for x_s, x_t in ((ours.q, theirs.q), (ours.k, theirs.k)):
        weights_ST = torch.randn(x_s.shape[2], x_t.shape[2])

        def loss(x_s, x_t, weights_ST=weights_ST):
            return alignment_loss(x_s, partial(mixture, weights_ST), x_t, mask, args)

        rotated_s = vlm.rotate(x_s, inputs.position_ids_3BL)
        rotated_t = teacher.rotate(x_t, inputs.position_ids_3BL)
        assert not torch.allclose(rotated_s, x_s, atol=1e-2)
        torch.testing.assert_close(loss(rotated_s, rotated_t), loss(x_s, x_t), rtol=1e-5, atol=0)


@pytest.fixture
def gradients(vlm, teacher):
    """Loss and gradients of a batch, with every layer aligned, KL and cross-entropy."""
    models = ModelPair(vlm.shape, teacher.vlm.shape, 700, vlm.rotate, teacher.rotate)
    args = ObjectiveArgs(
        laid=AlignmentArgs(weight=1.0, layers="all"),
        kl=DivergenceArgs(weight=1.0),
        sft=CrossEntropyArgs(weight=1.0),
    )
    objective = Objective(args, models)

    def run(inputs):
        vlm.zero_grad()
        theirs = teacher.signals(inputs, objective.of_teacher)
        loss, _ = objective(vlm.signals(inputs, objective.of_student), theirs, inputs)
        loss.backward()
        found = {n: p.grad.clone() for n, p in vlm.named_parameters() if p.grad is not None}
        return loss.detach(), found

    return run


def test_loss_and_gradients_of_a_padded_batch_are_the_mean_of_its_rows(gradients, batch):
    together, of_batch = gradients(batch(rows=[0, 2, 5]))
    alone = [gradients(batch(rows=[row])) for row in (0, 2, 5)]
    torch.testing.assert_close(together, torch.stack([loss for loss, _ in alone]).mean())
    assert len(of_batch) > 20
    for name, gradient in of_batch.items():
        mean = torch.stack([of_row[name] for _, of_row in alone]).mean(0)
        torch.testing.assert_close(gradient, mean, rtol=1e-3, atol=1e-5, msg=name)


def test_activation_checkpointing_changes_neither_signals_nor_gradients(models, batch):
    inputs, gradients = batch(rows=[1, 3]), []
    for checkpointing in (False, True):
        args = ModelArgs(
            str(models[0]), activation_checkpointing=checkpointing, freeze_vision=False
        )
        vlm = VLM.load(args).train()
        signals = vlm.signals(inputs, Wanted(layers=(0, 1), logits=True))
        loss = signals.qk[0].q.square().mean() + signals.qk[1].k.square().mean()
        (loss + signals.logits_NV.square().mean()).backward()
        gradients.append({n: p.grad for n, p in vlm.named_parameters() if p.grad is not None})
    plain, again = gradients
    assert plain.keys() == again.keys()
    for name in plain:
        torch.testing.assert_close(again[name], plain[name], rtol=1e-4, atol=1e-6, msg=name)
