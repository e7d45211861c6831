"""Retrieval alignment: which image a row looks for, among images at distances not seen before."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import TrainArgs
from laid.losses.attention_rows import question_rows
from laid.losses.image_tokens import images_of
from laid.losses.retrieval import RetrievalArgs
from laid.losses.retrieval_loss import looked_for
from laid.losses.retrieval_rows import looking_rows
from laid.losses.term import ModelPair
from laid.losses.virtual_haystack import as_shown, at_random_slots
from laid.signals.model_signals import QK, Signals, Wanted
from laid.vlm.model_loading import ModelArgs
from laid.vlm.vision_language_model import VLM

ALL = Wanted(layers=(0, 1))


def slotted(rows, images, slots=0, seed=0, distractors=True):
    """The images of a batch at random slots."""
    generator = torch.Generator().manual_seed(seed)
    return at_random_slots(
        rows, images.question_B, images, images.own_BM, slots, generator, distractors
    )


def test_images_are_found_with_their_marks(haystacks):
    inputs = haystacks().inputs
    images = images_of(inputs)
    assert images.images == inputs.images
    for image in range(images.images):
        here_N = images.image_N == image
        row, columns = images.haystack_M[image], images.column_N[here_N]
        visual = inputs.mm_token_type_ids_BL[row, columns].tolist()
        assert visual == [0, *[1] * (len(columns) - 2), 0]
        real_3N = inputs.position_ids_3BL[:, row, columns]
        assert torch.equal(images.offset_3N[:, here_N], real_3N - real_3N[0, 0])
    # An image ends where the next begins, the last where the question begins.
    for row in range(len(inputs.input_ids_BL)):
        mine_M = images.haystack_M == row
        first = inputs.mm_token_type_ids_BL[row].nonzero()[0] - 1
        start = inputs.position_ids_3BL[0, row, first]
        assert images.extent_M[mine_M].sum() == images.question_B[row] - start


def test_without_distractors_and_reach_it_is_the_attention_of_the_model(haystacks, full_forward):
    """Each row's attention, summed over the tokens of an image and shared among images."""
    eager = VLM.load(ModelArgs(path="tiny/student", attn_implementation="eager"))
    inputs = haystacks(rows=[2]).inputs
    images, rows = images_of(inputs), question_rows(inputs)
    place = as_shown(rows, images)
    qk = eager.signals(inputs, ALL).qk
    seen = full_forward(eager, inputs, output_attentions=True).attentions
    for layer, found in qk.items():
        keys_NKD = found.k[images.haystack_N, images.column_N]
        ours_BRHM = place.logits(found.q, keys_NKD, eager.rotate).softmax(-1)
        theirs_HRL = seen[layer][0][:, rows.columns_BR[0]]
        shares_HRM = torch.zeros(*theirs_HRL.shape[:2], images.images)
        shares_HRM.index_add_(2, images.image_N, theirs_HRL[..., images.column_N])
        shares_HRM /= shares_HRM.sum(-1, keepdim=True)
        expected = shares_HRM.transpose(0, 1)
        torch.testing.assert_close(ours_BRHM[0], expected, atol=1e-5, rtol=1e-4)


def test_virtual_positions_are_those_of_a_real_haystack(student, haystacks, encoder):
    """The first layer's keys do not depend on what stands before: images at virtual slots are
    attended to as in a haystack that is built with them in these slots."""
    inputs = haystacks(rows=[5]).inputs
    images, rows = images_of(inputs), question_rows(inputs)
    place = slotted(rows, images, seed=1, distractors=False)
    count = images.images
    assert count > 2
    nearest_first = place.distance_M.argsort().tolist()
    order = nearest_first[::-1]
    assert order != list(range(count))  # else nothing is shown
    pieces = inputs.pixel_values_PC.split(inputs.image_grid_thw_I3.prod(-1).tolist())
    real = replace(
        inputs,
        pixel_values_PC=torch.cat([pieces[i] for i in order]),
        image_names=[inputs.image_names[i] for i in order],
    )
    ours, theirs = (student.signals(one, Wanted(layers=(0,))).qk[0] for one in (inputs, real))
    at = images.haystack_N, images.column_N
    virtual = place.logits(ours.q, ours.k[at], student.rotate)
    shown = as_shown(rows, images_of(real)).logits(theirs.q, theirs.k[at], student.rotate)
    expected = torch.empty_like(shown)
    expected[..., order] = shown
    torch.testing.assert_close(virtual.softmax(-1), expected.softmax(-1), atol=1e-5, rtol=1e-4)


def test_images_stand_apart_and_within_reach(haystacks):
    inputs = haystacks().inputs
    images, rows = images_of(inputs), question_rows(inputs)
    place = slotted(rows, images, slots=150)
    by_name = dict(zip(images.name_M.tolist(), place.distance_M.tolist(), strict=False))
    distances = sorted(by_name.values())
    extent = int(images.extent_M.max())
    assert len(set(distances)) == len(by_name)
    assert min(b - a for a, b in pairwise(distances)) >= extent - 1
    assert max(distances) <= place.length
    assert place.length > 100 * extent  # far beyond the haystacks of the batch


def test_the_loss_is_the_plain_loop(build_retrieval, student, teacher, haystacks):
    """By hand, for each row, pair, head and image."""
    inputs = haystacks(rows=[2, 5, 1]).inputs
    term = build_retrieval(distractors="batch", reach=40, gamma=0.5, layers="all")
    term.heads.copy_(torch.rand(term.heads.shape, generator=torch.Generator().manual_seed(0)))
    asked = student.signals(inputs, term.of_student), teacher.signals(inputs, term.of_teacher)
    images = images_of(inputs)
    rows = looking_rows(asked[1], inputs, images, teacher.rotate, 1)
    place = slotted(rows, images, slots=40, seed=term.step)
    at = images.haystack_N, images.column_N
    total = 0.0
    for pair, (s, t) in enumerate(term.pairs):
        ours, theirs = asked[0].qk[s], asked[1].qk[t]
        logits_BSM = place.logits(ours.q, ours.k[at], student.rotate)[:, 0]
        logits_BTM = place.logits(theirs.q, theirs.k[at], teacher.rotate)[:, 0]
        for b in range(len(inputs.input_ids_BL)):
            pool = place.candidate_BM[b].nonzero()[:, 0].tolist()
            own = [m for m in pool if place.own_BM[b, m]]
            p_TM = logits_BTM[b][:, pool].softmax(-1)
            squared = {m: p_TM[:, at].square().sum().item() for at, m in enumerate(pool)}
            best = max(squared[m] for m in own)
            pool = [m for m in pool if m in own or squared[m] < best / 400]
            p_TM = logits_BTM[b][:, pool].softmax(-1)
            p_M = p_TM.square().sum(0).square()
            p_M = p_M / p_M.sum()
            log_q_SM = logits_BSM[b][:, pool].log_softmax(-1)
            for h, weight in enumerate(term.heads[pair]):
                for m in range(len(pool)):
                    far = (1 + place.distance_M[pool[m]] / place.length) ** 0.5
                    share = weight / term.heads[pair].sum() / 3 / len(term.pairs)
                    total += -p_TM.max() * share * p_M[m] * far * log_q_SM[h, m]
    torch.testing.assert_close(term(*asked, inputs), total)


def test_padding_and_the_order_of_the_batch_change_nothing(build_retrieval, batch_loss, haystacks):
    together = batch_loss(build_retrieval(distractors="batch"), haystacks(rows=[0, 2, 5]).inputs)
    turned = batch_loss(build_retrieval(distractors="batch"), haystacks(rows=[5, 0, 2]).inputs)
    torch.testing.assert_close(together, turned)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_at_their_own_places_a_batch_is_its_haystacks_one_by_one(
    build_retrieval, batch_loss, haystacks, gamma
):
    def loss(rows):
        term = build_retrieval(distractors="none", reach=0, gamma=gamma)
        return batch_loss(term, haystacks(rows=rows).inputs)

    alone = torch.stack([loss([row]) for row in (0, 2, 5)])
    torch.testing.assert_close(loss([0, 2, 5]), alone.mean())


def test_gamma_weighs_far_images_more(build_retrieval, batch_loss, haystacks):
    inputs = haystacks().inputs
    plain_loss, weighted = (
        batch_loss(build_retrieval(gamma=gamma), inputs) for gamma in (0.0, 1.0)
    )
    assert plain_loss < weighted < 2 * plain_loss


def test_the_largest_gamma_has_a_gradient_whose_norm_is_finite(
    build_retrieval, student, teacher, haystacks
):
    inputs = haystacks().inputs
    term = build_retrieval(gamma=32.0)
    with torch.no_grad():
        theirs = teacher.signals(inputs, term.of_teacher)
    term(student.signals(inputs, term.of_student), theirs, inputs).backward()
    grads = [p.grad for p in student.parameters() if p.grad is not None]
    assert 0 < torch.nn.utils.get_total_norm(grads) < torch.inf


def test_the_teacher_s_basis_does_not_matter(build_retrieval, student, teacher, haystacks):
    """Each rotary pair of a teacher's key head turned and stretched, and of its queries the other
    way; heads in another order."""
    inputs, term = haystacks().inputs, build_retrieval()
    ours, theirs = student.signals(inputs, ALL), teacher.signals(inputs, term.of_teacher)
    generator = torch.Generator().manual_seed(1)
    shape = teacher.shape
    group = shape.heads // shape.kv_heads

    def times(x_BLHD, c_HF):
        pairs = torch.complex(*x_BLHD.chunk(2, dim=-1)) * c_HF
        return torch.cat([pairs.real, pairs.imag], dim=-1)

    scrambled = {}
    for layer, qk in theirs.qk.items():
        c_KF = torch.randn(
            shape.kv_heads, shape.head_dim // 2, dtype=torch.complex64, generator=generator
        )
        c_KF = c_KF / c_KF.abs() * (0.5 + c_KF.abs())
        q = times(qk.q, (1 / c_KF.conj()).repeat_interleave(group, dim=0))
        order = torch.randperm(shape.kv_heads, generator=generator)
        scrambled[layer] = QK(
            q.unflatten(2, (shape.kv_heads, group))[:, :, order].flatten(2, 3),
            times(qk.k, c_KF)[:, :, order],
        )
    before = term(ours, theirs, inputs)
    after = build_retrieval()(ours, Signals(scrambled, None), inputs)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_gradients_reach_queries_and_the_keys_of_images(
    build_retrieval, student, teacher, haystacks
):
    inputs = haystacks(rows=[0, 2]).inputs
    term = build_retrieval(distractors="batch")
    theirs = teacher.signals(inputs, term.of_teacher)
    ours = student.signals(inputs, term.of_student)
    q_and_k = [x.detach().requires_grad_() for qk in ours.qk.values() for x in (qk.q, qk.k)]
    leaves = {layer: QK(q_and_k[2 * at], q_and_k[2 * at + 1]) for at, layer in enumerate(ours.qk)}
    term(Signals(leaves, None), theirs, inputs).backward()
    assert all(x.grad.abs().sum() > 0 for x in q_and_k)
    images = images_of(inputs)
    of_images = torch.zeros_like(inputs.input_ids_BL, dtype=torch.bool)
    of_images[images.haystack_N, images.column_N] = True
    assert all((k.grad[~of_images] == 0).all() for k in q_and_k[1::2])


def test_the_rows_that_look_for_an_image_are_those_of_the_objects(drawn):
    """Of the trained teacher: in every question nearly the anchor's name, else the target's."""
    data = HaystackDataModule(
        coco_root=str(drawn), train=TrainArgs(entries=24, min_size=5, max_size=10), prefix=""
    )
    data.setup("fit")
    teacher = VLM.load(ModelArgs("tiny/teacher-independent"))
    anchors = targets = 0
    for batch in data.probe(data.train_entries, torch.device("cpu")):
        inputs, entry = batch.inputs, batch.entries[0]
        with torch.no_grad():
            signals = teacher.signals(inputs, Wanted(layers=(0, 1, 2, 3)))
        rows = looking_rows(signals, inputs, images_of(inputs), teacher.rotate, 1)
        token = inputs.input_ids_BL[0, rows.columns_BR[0, 0]]
        word = data.encoder.processor.tokenizer.decode([token]).strip()
        anchors += word == entry.anchor.split()[-1]
        targets += word == entry.target.split()[-1]
    assert anchors >= 14
    assert anchors + targets >= 23


def test_an_image_that_may_be_a_second_needle_is_left_out(haystacks):
    inputs = haystacks(rows=[0, 2]).inputs
    images, rows = images_of(inputs), question_rows(inputs)
    rows = replace(rows, columns_BR=rows.columns_BR[:, :1], valid_BR=rows.valid_BR[:, :1])
    place = slotted(rows, images)
    other = int((place.candidate_BM[0] & ~place.own_BM[0]).nonzero()[0])
    logits = torch.zeros(2, 1, 3, len(place.distance_M)).masked_fill(
        ~place.candidate_BM[:, None, None], -1e9
    )
    logits[0, 0, :, 0] = 5.0  # the best of its own
    p, focus, candidate = looked_for(logits, place, 1 / 400, None)
    assert candidate[0, 0, other]
    assert p[0, 0].argmax() == 0
    assert 0.5 < focus[0, 0] < 1
    logits[0, 0, 1, other] = 5.0  # one teacher head looks at another's image as much
    _, _, candidate = looked_for(logits, place, 1 / 400, None)
    assert not candidate[0, 0, other]
    assert candidate[0, 0][place.own_BM[0]].all()
    _, _, candidate = looked_for(logits, place, 0.0, None)  # the rule is off
    assert candidate[0, 0, other]


def test_teacher_and_student_may_have_other_heads_and_head_dims(student, haystacks):
    inputs = haystacks().inputs
    ours = student.signals(inputs, ALL)
    generator = torch.Generator().manual_seed(0)
    length = inputs.input_ids_BL.shape
    theirs = {
        layer: QK(
            torch.randn(*length, 6, 8, generator=generator),
            torch.randn(*length, 3, 8, generator=generator),
        )
        for layer in range(5)
    }
    shape = replace(student.shape, layers=5, heads=6, kv_heads=3, head_dim=8)
    models = ModelPair(student.shape, shape, 700, student.rotate, lambda x, *_, **__: x.float())
    term = RetrievalArgs(weight=1.0).build(models)
    value = term(ours, Signals(theirs, None), inputs)
    assert torch.isfinite(value)
    assert value > 0
