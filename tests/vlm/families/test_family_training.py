"""What is trained of every family, and that ranks train as one process does."""

import pytest
import torch

from laid.distributed.sharded_tensors import full_tensor
from laid.losses.alignment import AlignmentArgs
from laid.losses.cross_entropy import CrossEntropyArgs
from laid.losses.divergence import DivergenceArgs
from laid.losses.term import ModelPair
from laid.signals.model_signals import Wanted
from laid.training.objective import Objective, ObjectiveArgs
from laid.training.placement import Placement
from laid.vlm.hf_folder import write_model
from laid.vlm.lora import LoraArgs, merged
from laid.vlm.model_loading import ModelArgs, load_model
from laid.vlm.rope_gain import RopeGainArgs, folded
from laid.vlm.vision_language_model import VLM
from laid.vlm.weight_files import is_gain

LOGITS = Wanted(layers=(0, 1), logits=True)


def gradients_of(mesh, models, rows):
    """Gradients of student and mixing weights in a step of this rank's rows."""
    place = Placement(mesh)
    student = place.student(ModelArgs(str(models[0]), freeze_vision=False)).train()
    teacher = place.teacher(ModelArgs(str(models[1])))
    args = ObjectiveArgs(
        laid=AlignmentArgs(weight=1.0, layers="all"),
        kl=DivergenceArgs(weight=1.0),
        sft=CrossEntropyArgs(weight=1.0),
    )
    pair = ModelPair(student.shape, teacher.shape, 700, student.rotate, teacher.rotate)
    objective = place.objective(Objective(args, pair))
    inputs = rows[0 if mesh is None else mesh.get_rank()]
    with torch.no_grad():
        theirs = teacher.signals(inputs, objective.of_teacher)
    loss, _ = objective(student.signals(inputs, objective.of_student), theirs, inputs)
    loss.backward()
    named = [*student.named_parameters(), *objective.named_parameters()]
    return {name: full_tensor(p.grad) for name, p in named if p.grad is not None}


def test_two_ranks_with_a_haystack_each_are_one_process_with_both(on_ranks, models, batch):
    alone = gradients_of(None, models, [batch(rows=[1, 4])])
    ranks = on_ranks(2, gradients_of, models, [batch(rows=[1]), batch(rows=[4])])
    assert any(".visual" in name or "vision" in name for name in alone)
    assert any(name.startswith("terms.laid.") for name in alone)
    for found in ranks:
        assert found.keys() == alone.keys()
        for name, gradient in alone.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_adapters_are_the_decoders_and_the_vision_tower_stays_as_it_is(models, batch):
    vlm = VLM.load(ModelArgs(str(models[0])), LoraArgs())
    assert vlm.vision_frozen
    vlm.signals(batch(), LOGITS).logits_NV.sum().backward()
    trained = [name for name, p in vlm.named_parameters() if p.grad is not None]
    assert trained
    assert all("lora_" in name for name in trained)


@torch.no_grad()
def test_merged_adapters_are_a_plain_model_of_the_same_logits(models, batch, tmp_path):
    args, lora, inputs = ModelArgs(str(models[0])), LoraArgs(), batch()
    vlm = VLM.load(args, lora)
    plain = vlm.signals(inputs, LOGITS)
    for parameter in vlm.adapters():
        parameter.normal_(std=0.1)
    adapted = vlm.signals(inputs, LOGITS)
    assert (adapted.qk[1].q - plain.qk[1].q).abs().max() > 1e-2
    state = {name: p for name, p in vlm.hf.named_parameters() if p.requires_grad}
    write_model(tmp_path, args, merged(args, lora, state), dtype=None)
    again = VLM(load_model(ModelArgs(str(tmp_path)))).signals(inputs, LOGITS)
    torch.testing.assert_close(again.logits_NV, adapted.logits_NV, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_rope_gains_are_folded_into_the_weights_or_refused(models, family, batch, tmp_path):
    args, gain, inputs = ModelArgs(str(models[0])), RopeGainArgs(), batch()
    if family.qk_layout != "flat":
        with pytest.raises(ValueError, match=f"{family.title} has a norm of queries"):
            VLM.load(args, gain=gain)
        return
    vlm = VLM.load(args, gain=gain)
    torch.manual_seed(0)
    for parameter in vlm.gain_parameters():
        parameter.normal_(std=0.3)
    state = vlm.hf.state_dict()
    logs = {name: state.pop(name) for name in list(state) if is_gain(name)}
    write_model(tmp_path, args, folded(args, gain, state, logs), dtype=None)
    again = VLM(load_model(ModelArgs(str(tmp_path)))).signals(inputs, LOGITS)
    gained_NV = vlm.signals(inputs, LOGITS).logits_NV
    torch.testing.assert_close(again.logits_NV, gained_NV, rtol=1e-4, atol=1e-4)


def test_a_trained_vision_tower_gets_gradients(models, batch):
    vlm = VLM.load(ModelArgs(str(models[0]), freeze_vision=False))
    assert not vlm.vision_frozen
    vlm.signals(batch(), LOGITS).logits_NV.sum().backward()
    for part in (*vlm.family.vision_parts(vlm.hf), *vlm.blocks):
        assert any(p.grad is not None for p in part.parameters())
