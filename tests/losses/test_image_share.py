"""The share of attention on images: in virtual haystacks what it is in real ones."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from bare_entry import BARE

from laid.common.errors import UserError
from laid.losses import image_share
from laid.losses.attention_rows import question_rows
from laid.losses.image_share import ImageShareArgs, TextAndImages
from laid.losses.image_tokens import images_of
from laid.losses.term import ModelPair
from laid.losses.virtual_haystack import at_random_slots
from laid.signals.model_signals import AttentionShape, Wanted
from laid.vlm.model_loading import ModelArgs
from laid.vlm.vision_language_model import VLM

DISTRACTORS = [{"distractors": "none"}, {"distractors": "batch"}, {"bank_tokens": 200}]


@pytest.fixture
def build(student):
    """The term for the tiny student, which has no teacher, by its settings."""

    def term(**settings):
        models = ModelPair(student.shape, None, 700, student.rotate, student.rotate)
        return ImageShareArgs(weight=1.0, **settings).build(models).train()

    return term


@pytest.fixture
def loss_of(student, haystacks):
    """The loss of some rows, and the gradients of the student's parameters."""

    def of(term, rows):
        inputs = haystacks(rows=rows).inputs
        ours = student.signals(inputs, term.of_student)
        loss = term(ours, None, inputs)
        student.zero_grad()
        (loss + 0.0 * sum(qk.q.sum() for qk in ours.qk.values())).backward()
        grads = {n: p.grad for n, p in student.named_parameters() if p.grad is not None}
        return loss.detach(), grads

    return of


def test_it_is_the_divergence_of_the_shares_of_two_real_haystacks(haystacks, full_forward):
    """The first layer's keys do not depend on what stands before: images at virtual slots are as
    in a haystack that is built with them there, and the other one is as it is."""
    eager = VLM.load(ModelArgs(path="tiny/student", attn_implementation="eager"))
    inputs = haystacks(rows=[5]).inputs
    images, rows = images_of(inputs), question_rows(inputs)
    generator = torch.Generator().manual_seed(1)
    place = at_random_slots(
        rows, images.question_B, images, images.own_BM, 0, generator, distractors=False
    )
    order = place.distance_M.argsort(descending=True).tolist()
    assert order != list(range(images.images))  # else nothing is shown
    pieces = inputs.pixel_values_PC.split(inputs.image_grid_thw_I3.prod(-1).tolist())
    built = replace(
        inputs,
        pixel_values_PC=torch.cat([pieces[i] for i in order]),
        image_names=[inputs.image_names[i] for i in order],
    )
    qk = eager.signals(inputs, Wanted(layers=(0,))).qk[0]
    k_NKD = qk.k[images.haystack_N, images.column_N]
    parts = TextAndImages.of(images, rows)
    found_RH = parts.divergence(rows, place, eager.rotate, qk.q, qk.k, k_NKD)[0]

    def share_RH(of):
        """On images, of the model itself."""
        p_HRL = full_forward(eager, of, output_attentions=True).attentions[0][0]
        return p_HRL[:, rows.columns_BR[0]][..., images.column_N].sum(-1).T

    p_RH, q_RH = share_RH(inputs), share_RH(built)
    rest = (1 - p_RH) * ((1 - p_RH) / (1 - q_RH)).log()
    expected_RH = (p_RH * (p_RH / q_RH).log() + rest)[rows.valid_BR[0]]
    found_RH = found_RH[rows.valid_BR[0]]
    assert expected_RH.max() > 1e-4  # or two equal shares would do
    torch.testing.assert_close(found_RH, expected_RH, atol=1e-5, rtol=1e-2)


def test_it_is_a_mean_over_rows_of_text_heads_and_layers(build, student, haystacks, loss_of):
    """The mark after the last image is a key of that image, and no row."""
    term = build(reach=150, distractors="none")
    inputs = haystacks(rows=[5]).inputs
    images, rows = images_of(inputs), question_rows(inputs)
    mark_R = rows.columns_BR[0] == images.column_N.max()
    assert mark_R.sum() == 1
    place = at_random_slots(
        rows,
        images.question_B,
        images,
        images.own_BM,
        150,
        torch.Generator().manual_seed(0),
        distractors=False,
    )
    each = []
    for layer, qk in student.signals(inputs, term.of_student).qk.items():
        k_NKD = qk.k[images.haystack_N, images.column_N]
        parts = TextAndImages.of(images, rows)
        rotate = partial(student.rotate, layer=layer)
        each_BRH = parts.divergence(rows, place, rotate, qk.q, qk.k, k_NKD)
        each.append(each_BRH[0, rows.valid_BR[0] & ~mark_R].mean())
    assert len(each) == student.shape.layers
    torch.testing.assert_close(loss_of(term, [5])[0], torch.stack(each).mean().detach())


def test_where_nothing_is_moved_it_is_0(build, loss_of):
    """One image, in the only slot."""
    loss, grads = loss_of(build(reach=1, distractors="none"), [0])
    torch.testing.assert_close(loss, torch.tensor(0.0), atol=1e-6, rtol=0)
    assert all(grad.abs().max() < 1e-4 for grad in grads.values())


def test_far_images_and_more_of_them_change_the_share(build, loss_of):
    near, far, many = (
        loss_of(build(**settings), [2, 5])[0]
        for settings in (
            {"reach": 4, "distractors": "none"},
            {"reach": 150, "distractors": "none"},
            {"reach": 150, "distractors": "batch"},
        )
    )
    assert 0 < near < far
    assert far != many


def test_padding_and_the_order_of_the_batch_change_nothing(build, loss_of):
    together, turned = (
        loss_of(build(distractors="batch"), rows)[0] for rows in ([0, 2, 5], [5, 0, 2])
    )
    torch.testing.assert_close(together, turned)


@pytest.mark.parametrize("settings", DISTRACTORS, ids=str)
def test_an_entry_without_images_counts_as_0(build, loss_of, settings):
    """So a batch of it and a haystack is two batches of one, with half the gradient."""
    haystack, of_haystack = loss_of(build(**settings), [2])
    both, of_both = loss_of(build(**settings), [BARE, 2])
    torch.testing.assert_close(both, haystack / 2)
    for name, grad in of_haystack.items():
        torch.testing.assert_close(of_both[name], grad / 2, rtol=1e-4, atol=1e-6)
    alone, of_alone = loss_of(build(**settings), [BARE])
    assert alone == 0
    assert not any(grad.any() for grad in of_alone.values())


def test_the_bank_holds_images_of_earlier_steps_and_is_in_the_checkpoint(build, loss_of):
    term, resumed = build(), build()
    first = loss_of(term, [3, 4])[0]
    resumed.load_state_dict(term.state_dict())
    ours, theirs = loss_of(term, [2, 5]), loss_of(resumed, [2, 5])
    assert first > 0
    assert torch.equal(ours[0], theirs[0])
    assert ours[0] != loss_of(build(), [2, 5])[0]


def test_of_large_layers_the_loss_and_its_gradient_are_the_same(build, loss_of, monkeypatch):
    expected, of_expected = loss_of(build(), [2, 5])
    monkeypatch.setattr(image_share, "PART", 1)
    found, of_found = loss_of(build(), [2, 5])
    torch.testing.assert_close(found, expected)
    for name, grad in of_expected.items():
        torch.testing.assert_close(of_found[name], grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("settings", "said"), [
    ({"reach": 0}, "reach 0: expected 1 to"),
    ({"bank_tokens": 0}, "bank_tokens 0: expected 1 to"),
    ({"bank_tokens": 10**12}, "bank_tokens 1000000000000: expected 1 to"),
])  # fmt: skip
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(UserError, match=f"objective.image_share.{said}"):
        ImageShareArgs(weight=1.0, **settings)


def test_layers_that_do_not_see_the_haystack_are_left_out(student):
    def layers(*windows):
        shape = AttentionShape(3, 4, 2, 8, windows=windows)
        models = ModelPair(shape, None, 700, student.rotate, student.rotate)
        return ImageShareArgs(weight=1.0).build(models).layers

    assert layers(0, 16, 0) == (0, 2)
    with pytest.raises(UserError, match="every layer of the student sees 16 tokens"):
        layers(16, 16, 16)
