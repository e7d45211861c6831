"""Several haystacks in one row say what each says by itself, and so do all that is made of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.modeling_flash_attention_utils import (
    _is_packed_sequence,
    prepare_fa_kwargs_from_position_ids,
)

from laid.data.entries import HaystackEntry
from laid.losses.alignment import AlignmentArgs
from laid.losses.cross_entropy import CrossEntropyArgs
from laid.losses.divergence import DivergenceArgs
from laid.losses.retrieval import RetrievalArgs
from laid.losses.term import ModelPair
from laid.signals.model_inputs import Answers, ModelInputs, pad_batch
from laid.signals.model_signals import Wanted
from laid.training.objective import Objective, ObjectiveArgs
from laid.vlm.model_loading import ModelArgs
from laid.vlm.packed_row import one_row, row_arguments
from laid.vlm.rope_gain import RopeGainArgs
from laid.vlm.vision_language_model import VLM

SIDES = [(56, 56), (28, 84), (140, 56), (84, 112), (196, 28), (56, 168)]
"""Width and height: 4 to 12 visual tokens, square, wide and high."""
ALL = Wanted(layers=(0, 1), logits=True)


@pytest.fixture
def sizes():
    """Images of the haystacks, by their places in ``SIDES``."""
    return [(0, 1, 2), (3,), (4, 5, 0, 3, 1), (2, 2)]


@pytest.fixture
def batch(encoder, sizes):
    """The haystacks side by side; a function of what to repaint, as (haystack, image)."""

    def make(repainted=None, rows=range(4)) -> ModelInputs:
        made = []
        for row, images in enumerate(sizes):
            drawn = [painted(side, (row, n) == repainted) for n, side in enumerate(images)]
            names = tuple(f"{row}-{n}.png" for n in range(len(images)))
            entry = HaystackEntry(
                id=str(row), question=f"For the image with a cat, is there a {'dog cup'[:row]}?",
                answer="yes", size=len(images), images=names, needles=(0,),
            )  # fmt: skip
            made.append(encoder.encode(entry, *encoder.patches(drawn), with_answer=True))
        return pad_batch([made[row] for row in rows], encoder.pad_id, "right")

    return make


def painted(side: int, differently: bool) -> Image.Image:
    generator = np.random.default_rng(100 * side + differently)
    width, height = SIDES[side]
    return Image.fromarray(generator.integers(0, 255, (height, width, 3), dtype=np.uint8))


def packed(inputs: ModelInputs) -> ModelInputs:
    return replace(inputs, lengths=inputs.attention_mask_BL.sum(-1).tolist())


def test_the_answers_of_a_row_are_where_its_labels_are(batch):
    row = one_row(packed(batch()))
    for name, expected in vars(Answers.of(row.labels_BL)).items():
        assert torch.equal(getattr(row.answers, name), expected), name


def load(folder, attention="sdpa", **more) -> VLM:
    """In float64, where rounding hides nothing."""
    added = {name: more.pop(name) for name in ("gain",) if name in more}
    args = ModelArgs(str(folder), attn_implementation=attention, **more)
    return VLM.load(args, **added).double().train()


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def same_signals(found, expected, mask_BL):
    assert found.qk.keys() == expected.qk.keys()
    for layer, qk in expected.qk.items():
        for ours, theirs in ((found.qk[layer].q, qk.q), (found.qk[layer].k, qk.k)):
            assert ours.shape == theirs.shape
            close(ours[mask_BL.bool()], theirs[mask_BL.bool()])
            assert not ours[~mask_BL.bool()].any()
    close(found.logits_NV, expected.logits_NV)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_queries_keys_and_logits_are_those_of_haystacks_side_by_side(pair, batch, attention):
    vlm, inputs = load(pair[0], attention), batch()
    assert len(set(packed(inputs).lengths)) == 4
    expected = vlm.signals(inputs, ALL)
    same_signals(vlm.signals(packed(inputs), ALL), expected, inputs.attention_mask_BL)
    # and a model that has run them in a row runs them side by side as before
    again = vlm.signals(inputs, ALL)
    assert torch.equal(again.logits_NV, expected.logits_NV)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_haystack_does_not_see_its_neighbours(pair, batch, attention):
    """Another image in the second haystack changes nothing in the others, to the bit."""
    vlm, plain, other = load(pair[0], attention), packed(batch()), packed(batch((1, 0)))
    before, after = vlm.signals(plain, ALL), vlm.signals(other, ALL)
    answers = before.logits_NV.unflatten(0, (4, -1)), after.logits_NV.unflatten(0, (4, -1))
    for row in range(4):
        assert torch.equal(before.qk[1].q[row], after.qk[1].q[row]) == (row != 1)
        assert torch.equal(answers[0][row], answers[1][row]) == (row != 1)


def test_with_the_three_rows_of_positions_alone_they_would(pair, batch):
    """Why there are four: transformers makes no mask of three, and says nothing."""
    vlm = load(pair[0], "eager")

    def last_states(inputs, rows):
        row = one_row(packed(inputs))
        arguments = row_arguments(vlm.family, row)
        assert arguments["position_ids"].shape[:2] == (4, 1)
        arguments["position_ids"] = arguments["position_ids"][4 - rows :]
        arguments["pixel_values"] = row.pixel_values_PC
        with torch.no_grad():
            return vlm.hf(**arguments, logits_to_keep=1, use_cache=False).logits

    other = batch((1, 0))
    assert torch.equal(last_states(batch(), 4), last_states(other, 4))
    assert not torch.equal(last_states(batch(), 3), last_states(other, 3))


def test_flash_attention_finds_the_haystacks_in_the_text_row(student, batch):
    """transformers' own functions, which look for them right before the kernel."""
    row = one_row(packed(batch()))
    text_1S = row_arguments(student.family, row)["position_ids"][0]
    assert _is_packed_sequence(text_1S, batch_size=1)
    (ends, _), (longest, _) = prepare_fa_kwargs_from_position_ids(text_1S)
    assert ends.diff().tolist() == row.lengths
    assert longest == max(row.lengths)


def test_compiled_layers_are_compiled_once_for_each_number_of_haystacks(pair, batch):
    """Whatever their lengths; and say the same."""
    plain, vlm = load(pair[0]), load(pair[0])
    vlm.compile_layers((), backend="eager")
    torch._dynamo.reset()
    batches = [packed(batch(rows=rows)) for rows in ([0, 1], [2, 3], [1, 2], [0, 2, 3], [3, 1, 0])]
    assert len({tuple(inputs.lengths) for inputs in batches}) == len(batches)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=2):
        for inputs in batches:
            found, expected = (one.signals(inputs, Wanted(logits=True)) for one in (vlm, plain))
            close(found.logits_NV, expected.logits_NV)


TERMS = {
    "laid": {"laid": AlignmentArgs(weight=1.0, layers="all")},
    "laid by sum": {"laid": AlignmentArgs(weight=1e-3, layers="all", reduction="sum")},
    "kl": {"kl": DivergenceArgs(weight=1.0)},
    "sft": {"sft": CrossEntropyArgs(weight=1.0)},
    "retrieval": {"retrieval": RetrievalArgs(weight=1.0)},
    "retrieval in a haystack": {"retrieval": RetrievalArgs(distractors="none", weight=1.0)},
    "retrieval by needles": {"retrieval": RetrievalArgs(target="label", rows=2, weight=1.0)},
}
OFF = {
    "laid": AlignmentArgs(weight=0.0),
    "kl": DivergenceArgs(weight=0.0),
    "sft": CrossEntropyArgs(weight=0.0),
}
MODELS = {
    "plain": {},  # and one term is enough for other ways to hold a model
    "checkpointing": {"activation_checkpointing": True},
    "selective": {"activation_checkpointing": "selective"},
    "vision": {"freeze_vision": False},
    "gain": {"gain": RopeGainArgs("all")},
}


def gradients_and_losses(pair, batches, terms, **how):
    """Of two steps, since terms may keep state; the teacher runs them as the student does."""
    student, teacher = load(pair[0], **how), load(pair[1]).requires_grad_(False)
    models = ModelPair(student.shape, teacher.shape, 700, student.rotate, teacher.rotate)
    objective = Objective(ObjectiveArgs(**(OFF | terms)), models)
    losses = []
    for inputs in batches:
        signals = student.signals(inputs, objective.of_student)
        of_teacher = teacher.signals(inputs, objective.of_teacher)
        loss, _ = objective(signals, of_teacher, inputs)
        loss.backward()
        losses.append(loss.detach())
    named = [*student.named_parameters(), *objective.named_parameters()]
    return losses, {name: p.grad for name, p in named if p.grad is not None}


@pytest.mark.parametrize(
    ("term", "model"),
    [*((term, "plain") for term in TERMS), *(("laid", how) for how in [*MODELS][1:])],
)
def test_losses_and_gradients_are_those_of_haystacks_side_by_side(pair, batch, term, model):
    terms, how = TERMS[term], MODELS[model]
    batches = [batch(), batch((0, 1))]
    expected, gradients = gradients_and_losses(pair, batches, terms, **how)
    losses, found = gradients_and_losses(pair, [packed(b) for b in batches], terms, **how)
    close(losses, expected, 1e-6)  # losses compute in float32
    assert found.keys() == gradients.keys()
    assert len(found) > 10
    scale = max(g.abs().max() for g in gradients.values())
    for name, gradient in gradients.items():
        close(found[name] / scale, gradient / scale, 1e-6)
