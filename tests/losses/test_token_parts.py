"""Losses part by part: the same numbers, little memory, and nothing read back from the device."""

from types import SimpleNamespace

import pytest
import torch
from other_device.host_reads import host_reads

from laid.losses import token_parts
from laid.losses.alignment import AlignmentArgs
from laid.losses.attention_rows import question_rows, row_logits
from laid.losses.divergence import DivergenceArgs
from laid.losses.head_mixing import MixingArgs
from laid.losses.retrieval import RetrievalArgs
from laid.losses.term import ModelPair
from laid.planning.memory_tracker import MemoryTracker
from laid.signals.model_signals import QK, Signals
from laid.training.objective import Objective, ObjectiveArgs

S, T, D = (8, 2), (12, 4), 64
"""Query and KV heads of student and teacher, head_dim."""


def signals_of(heads, tokens, layer, trained=False, batch=2):
    generator = torch.Generator().manual_seed(layer)
    q, k = (torch.randn(batch, tokens, n, D, generator=generator).bfloat16() for n in heads)
    return Signals({layer: QK(q.requires_grad_(trained), k.requires_grad_(trained))}, None)


def term_of(pair_of, **settings):
    return AlignmentArgs(**settings).build(pair_of((1, *S), (4, *T), D))


def loss_and_gradients(term, tokens):
    ours, theirs = signals_of(S, tokens, 0, trained=True), signals_of(T, tokens, 3)
    mask = torch.ones(2, tokens)
    mask[1, tokens // 2 :] = 0
    loss = term(ours, theirs, SimpleNamespace(attention_mask_BL=mask))
    loss.backward()
    gradients = [ours.qk[0].q.grad, ours.qk[0].k.grad, *(p.grad for p in term.parameters())]
    return loss.detach(), gradients


@pytest.mark.parametrize("keys", ["own", "shared"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_alignment_is_the_same_part_by_part(monkeypatch, pair_of, reduction, keys):
    mixing = MixingArgs(keys=keys)
    whole_term, term = (term_of(pair_of, reduction=reduction, mixing=mixing) for _ in range(2))
    expected, gradients = loss_and_gradients(whole_term, 50)
    monkeypatch.setattr(token_parts, "PART", 2 * 12 * D * 7)  # seven tokens
    loss, found = loss_and_gradients(term, 50)
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(found, gradients, strict=True):
        # Gradients of softmax weights are small sums of large numbers.
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def peak(term, tokens):
    """Bytes at the peak of forward and backward; queries and keys are among them."""
    ours, theirs = signals_of(S, tokens, 0, trained=True), signals_of(T, tokens, 3)
    tracker = MemoryTracker()
    with tracker.watching():
        inputs = SimpleNamespace(attention_mask_BL=torch.ones(2, tokens))
        term(ours, theirs, inputs).backward()
    return max(found.total() for found in tracker.peaks().values())


def test_alignment_makes_no_float32_copy_of_whole_queries(monkeypatch, pair_of):
    tokens = 2000
    ours, theirs = (2 * tokens * sum(heads) * D * 2 for heads in (S, T))
    copy = 2 * tokens * T[0] * D * 4
    assert peak(term_of(pair_of), tokens) > ours + theirs + 3 * copy  # below PART: at once
    monkeypatch.setattr(token_parts, "PART", 2**16)
    # The student's and their gradient, which autograd puts together of parts; the teacher's.
    assert peak(term_of(pair_of), tokens) < 3 * ours + theirs + copy / 4


def test_attention_rows_and_retrieval_are_the_same_part_by_part(
    monkeypatch, student, teacher, haystacks
):
    inputs = haystacks().inputs
    models = ModelPair(student.shape, teacher.shape, 700, student.rotate, teacher.rotate)

    def found():
        term = RetrievalArgs(weight=1.0, bank_tokens=64).build(models).train()
        ours = student.signals(inputs, term.of_student)
        theirs = teacher.signals(inputs, term.of_teacher)
        loss = term(ours, theirs, inputs)
        student.zero_grad()
        loss.backward()
        weight = student.family.layers(student.hf)[0].self_attn.k_proj.weight
        rows = row_logits(theirs.qk[0], question_rows(inputs), teacher.rotate)
        return loss.detach(), weight.grad.clone(), rows.detach()

    expected = found()
    monkeypatch.setattr(token_parts, "PART", 2**9)
    for ours, theirs in zip(found(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_losses_of_a_step_read_nothing_back_from_the_device(student, teacher, haystacks):
    """But for retrieval, which chooses images by their names."""
    inputs = haystacks().inputs
    args = ObjectiveArgs(laid=AlignmentArgs(layers="all"), kl=DivergenceArgs(weight=1.0))
    models = ModelPair(student.shape, teacher.shape, 700, student.rotate, teacher.rotate)
    objective = Objective(args, models)
    with host_reads() as reads:
        inputs.answers  # noqa: B018  # once a batch
    assert reads
    ours = student.signals(inputs, objective.of_student)
    theirs = teacher.signals(inputs, objective.of_teacher)
    with host_reads() as reads:
        loss, _ = objective(ours, theirs, inputs)
        loss.backward()
        assert inputs.answers.rows_N is inputs.answers.rows_N
    assert reads == []


def test_answers_are_found_again_where_the_labels_are_others(haystacks):
    inputs = haystacks().inputs
    before = inputs.answers
    inputs.labels_BL = inputs.labels_BL[:, 1:]
    assert torch.equal(inputs.answers.columns_N, before.columns_N - 1)
