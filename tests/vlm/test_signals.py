"""What a model says of a batch: queries and keys of chosen layers, logits of the answer."""

import gc
import weakref

import pytest
import torch

from laid.signals.model_inputs import IGNORED
from laid.signals.model_signals import Wanted
from laid.vlm.model_loading import ModelArgs
from laid.vlm.online_teacher import OnlineTeacher
from laid.vlm.qk_capture import captured_qk
from laid.vlm.vision_language_model import VLM


def test_queries_and_keys_are_what_the_projections_make_of_the_layers_input(
    student, haystacks, full_forward
):
    inputs = haystacks().inputs
    states = full_forward(student, inputs, output_hidden_states=True).hidden_states
    qk = student.signals(inputs, Wanted(layers=(0, 1))).qk
    assert list(qk) == [0, 1]
    for layer, found in qk.items():
        block = student.hf.model.language_model.layers[layer]
        x = block.input_layernorm(states[layer])
        torch.testing.assert_close(found.q.flatten(2), block.self_attn.q_proj(x))
        torch.testing.assert_close(found.k.flatten(2), block.self_attn.k_proj(x))
        assert found.q.shape[2:] == (4, 32)
        assert found.k.shape[2:] == (2, 32)


def test_logits_are_those_that_predict_the_answer(student, haystacks, full_forward):
    inputs = haystacks().inputs
    full = full_forward(student, inputs).logits
    rows, columns = inputs.answers.rows_N, inputs.answers.columns_N
    signals = student.signals(inputs, Wanted(logits=True))
    torch.testing.assert_close(signals.logits_NV, full[rows, columns])
    labels = inputs.answers.labels_N
    assert len(labels) == len(rows) == 12  # "Yes" or "No" and the end of the turn, six times
    assert torch.equal(labels, inputs.input_ids_BL[rows, columns + 1])


def test_padding_and_company_change_nothing(student, haystacks):
    """Six haystacks in one batch say what each says alone, up to float rounding."""
    together = haystacks()
    wanted = Wanted(layers=(1,), logits=True)
    whole = student.signals(together.inputs, wanted)
    rows = together.inputs.answers.rows_N
    for row in range(6):
        alone = haystacks(rows=[row])
        length = alone.inputs.input_ids_BL.shape[1]
        signals = student.signals(alone.inputs, wanted)
        torch.testing.assert_close(
            whole.logits_NV[rows == row], signals.logits_NV, rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            whole.qk[1].q[row, :length], signals.qk[1].q[0], rtol=1e-4, atol=1e-4
        )


def test_activation_checkpointing_changes_neither_signals_nor_gradients(pair, haystacks):
    inputs = haystacks().inputs
    gradients = []
    for checkpointing in (False, True):
        vlm = VLM.load(ModelArgs(str(pair[0]), activation_checkpointing=checkpointing)).train()
        signals = vlm.signals(inputs, Wanted(layers=(0, 1), logits=True))
        loss = signals.qk[0].q.square().mean() + signals.qk[1].k.square().mean()
        (loss + signals.logits_NV.square().mean()).backward()
        gradients.append({n: p.grad for n, p in vlm.named_parameters() if p.grad is not None})
    plain, again = gradients
    assert plain.keys() == again.keys()
    assert len(plain) > 10
    for name in plain:
        torch.testing.assert_close(again[name], plain[name], rtol=1e-4, atol=1e-6)


def test_without_logits_nothing_runs_beyond_the_last_wanted_layer(teacher, haystacks):
    inputs, layers, ran = haystacks().inputs, teacher.family.layers(teacher.hf), []
    expected = teacher.signals(inputs, Wanted(layers=(0, 1), logits=True)).qk
    for at, layer in enumerate(layers):
        layer.register_forward_hook(lambda *_, at=at: ran.append(at))
    found = teacher.signals(inputs, Wanted(layers=(0, 1))).qk
    assert ran == [0, 1]
    for layer in found:
        assert torch.equal(found[layer].q, expected[layer].q)
        assert torch.equal(found[layer].k, expected[layer].k)
    assert teacher.family.layers(teacher.hf) is layers
    teacher.signals(inputs, Wanted(layers=(0,), logits=True))
    assert ran == [0, 1, 0, 1, 2]


def test_capture_leaves_no_reference_behind(student, haystacks):
    signals = student.signals(haystacks().inputs, Wanted(layers=(1,), logits=True))
    remembered = weakref.ref(signals.qk[1].q)
    del signals
    gc.collect()
    assert remembered() is None
    assert not any(module._forward_hooks for module in student.hf.model.language_model.modules())


def test_capture_is_silent_outside_our_forward(student, haystacks, full_forward):
    inputs = haystacks().inputs
    with captured_qk(student.hf, student.family, (1,)) as (q, k):
        pass
    full_forward(student, inputs)
    assert not q
    assert not k


def test_a_frozen_vision_tower_gets_no_gradient_and_the_rest_does(pair, haystacks):
    for freeze in (True, False):
        vlm = VLM.load(ModelArgs(str(pair[0]), freeze_vision=freeze))
        vlm.signals(haystacks().inputs, Wanted(logits=True)).logits_NV.sum().backward()
        seen = [p.grad is not None for n, p in vlm.named_parameters() if ".visual." in n]
        assert not any(seen) if freeze else all(seen)
        assert vlm.hf.model.language_model.layers[0].self_attn.q_proj.weight.grad is not None


def test_an_online_teacher_gives_signals_without_gradient(teacher, haystacks):
    source = OnlineTeacher(teacher)
    signals = source.signals(haystacks().inputs, Wanted(layers=(2,), logits=True))
    assert not signals.logits_NV.requires_grad
    assert not signals.qk[2].q.requires_grad
    assert source.missing(Wanted(layers=(0, 2))) is None
    assert "layers [3]: it has 0 to 2" in source.missing(Wanted(layers=(0, 3)))


def test_labels_are_ignored_but_for_the_answer(haystacks, encoder):
    batch = haystacks()
    for row, entry in zip(batch.inputs.labels_BL, batch.entries, strict=True):
        text = encoder.processor.tokenizer.decode(row[row != IGNORED])
        assert text == entry.answer.capitalize() + "<|im_end|>"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_weights_keep_exact_rotary_frequencies(pair, dtype):
    vlm = VLM.load(ModelArgs(str(pair[0]), dtype=dtype))
    assert vlm.hf.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
    assert vlm.hf.lm_head.weight.dtype == getattr(torch, dtype)
