"""Options of the decoder's layers in training change neither signals nor gradients."""

import pytest
import torch

from laid.planning.memory_tracker import MemoryTracker
from laid.signals.model_signals import Wanted
from laid.vlm.model_loading import ModelArgs
from laid.vlm.vision_language_model import VLM

WANTED = Wanted(layers=(1,), logits=True)


def step(vlm, inputs):
    """A loss of everything that is wanted, and its gradients."""
    signals = vlm.train().signals(inputs, WANTED)
    loss = signals.logits_NV.square().mean() + signals.qk[1].q.square().mean()
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in vlm.named_parameters() if p.grad is not None}


def assert_same_step(vlm, plain, inputs):
    (loss, found), (expected, gradients) = step(vlm, inputs), step(plain, inputs)
    torch.testing.assert_close(loss, expected)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def compiled(pair, backend, **more):
    vlm = VLM.load(ModelArgs(str(pair[0]), **more))
    vlm.compile_layers(WANTED.layers, backend=backend)
    return vlm


BATCHES = ([0, 2], [3], [5, 1])  # other lengths each time


@pytest.mark.parametrize(
    ("checkpointing", "batches"),
    [
        (False, BATCHES[::2]),
        *(pytest.param(how, BATCHES, marks=pytest.mark.slow) for how in (False, True, "selective")),
    ],
)
def test_compiled_layers_give_the_same_step(pair, haystacks, student, checkpointing, batches):
    """By PyTorch's graphs and its derivatives of them, without generated code."""
    vlm = compiled(pair, "aot_eager", activation_checkpointing=checkpointing)
    for rows in batches:
        student.zero_grad(), vlm.zero_grad()
        assert_same_step(vlm, student, haystacks(rows=rows).inputs)


def test_compiled_layers_answer_and_are_saved_as_they_were(pair, haystacks, student):
    vlm = compiled(pair, "aot_eager").eval()
    inputs = haystacks(with_answer=False, side="left", rows=[0, 3]).inputs
    assert torch.equal(vlm.answer(inputs, 3), student.eval().answer(inputs, 3))
    assert vlm.state_dict().keys() == student.state_dict().keys()


@pytest.mark.slow  # code is generated and compiled
def test_generated_code_gives_the_same_step(pair, haystacks, student):
    assert_same_step(compiled(pair, "inductor"), student, haystacks(rows=[0, 2]).inputs)


def test_selective_checkpointing_computes_all_but_attention_again(pair, haystacks, student):
    inputs = haystacks().inputs
    again = {}
    for how in (True, "selective"):
        vlm = VLM.load(ModelArgs(str(pair[0]), activation_checkpointing=how)).train()
        signals = vlm.signals(inputs, WANTED)
        tracker = MemoryTracker()
        with tracker.watching():
            tracker.enter("backward")
            signals.logits_NV.square().mean().backward()
        redone = [work.attention for (_, work), _ in tracker.flops.items() if work.again]
        again[how] = set(redone)
    assert again == {True: {True, False}, "selective": {False}}
    vlm = VLM.load(ModelArgs(str(pair[0]), activation_checkpointing="selective"))
    assert_same_step(vlm, student, inputs)
