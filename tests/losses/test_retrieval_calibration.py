"""Retrieval alignment: its calibration, the bank under paired layers, and settings out of range."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad

from laid.common.errors import UserError
from laid.losses.image_tokens import images_of
from laid.losses.retrieval import RetrievalArgs
from laid.losses.retrieval_pairs import pairs_message, taught_pairs
from laid.losses.term import CalibrationData, ModelPair
from laid.signals.model_signals import QK, Signals, Wanted


def test_calibration_finds_the_heads_that_retrieve(build_retrieval, student, haystacks):
    """Of a teacher that is the student, every head is like itself; one that looks at nothing is
    like none."""
    turns = student.rotate, student.rotate
    models = ModelPair(student.shape, student.shape, 700, *turns)
    term = RetrievalArgs(weight=1.0, calibration=3, layers="all").build(models)
    batches = [haystacks(rows=[row]).inputs for row in (1, 2, 5)]

    def blind(inputs, wanted):
        signals = student.signals(inputs, wanted)
        for qk in signals.qk.values():
            qk.q[:, :, 1] = 0.0
        return signals

    with torch.no_grad():
        term.calibrate(CalibrationData(batches, blind, student.signals))
    torch.testing.assert_close(term.heads[:, [0, 2, 3]], torch.ones(2, 3))
    assert term.heads[:, 1].max() < 1e-6


def test_pairs_found_in_calibration_have_a_bank_and_a_checkpoint(student, haystacks):
    """The teacher: a layer that looks at nothing, then the student's own. Calibration pairs each
    student layer with its equal, which is another one than before."""
    shape = replace(student.shape, layers=3)
    models = ModelPair(student.shape, shape, 700, student.rotate, student.rotate)
    args = RetrievalArgs(weight=1.0, calibration=2, layers="matched")

    def shifted(inputs, wanted):
        found = student.signals(inputs, Wanted(layers=(0, 1))).qk
        blind = replace(found[0], q=torch.zeros_like(found[0].q))
        return Signals({0: blind, 1: found[0], 2: found[1]}, None).only(wanted)

    term = args.build(models)
    before = term.of_teacher.layers
    batches = [haystacks(rows=[row]).inputs for row in (2, 5)]
    data = CalibrationData(batches, student.signals, shifted)
    with torch.no_grad():
        by_depth = replace(args, layers="all").build(models)
        said = by_depth.calibrate(data)
        assert said is not None
        assert "[(0, 0)] the heads attend to images less than half as much alike" in said
        assert "not taught: [(0, 0)]" in said
        assert said.endswith("with layers matched the teacher's layers are those that attend alike")
        assert (
            term.calibrate(data)
            == "layer pairs (student, teacher) by attention rows: [(0, 1), (1, 2)]"
        )
        assert term.of_teacher.layers == (1, 2) != before
        first, second = (
            (student.signals(x, term.of_student), shifted(x, term.of_teacher), x)
            for x in (haystacks(rows=[0, 2]).inputs, haystacks(rows=[5]).inputs)
        )
        term(*first)
        resumed = args.build(models)
        resumed.load_state_dict(term.state_dict())
        resumed.restored()
        assert torch.equal(resumed(*second), term(*second))


def test_a_pair_that_does_not_attend_alike_is_as_if_it_were_not_named(student, haystacks):
    """The teacher: the student, whose first layer looks at nothing. Of all pairs the other one is
    taught, from the rows that its layer looks from; with a resumed run too."""
    models = ModelPair(student.shape, student.shape, 700, student.rotate, student.rotate)
    args = RetrievalArgs(weight=1.0, calibration=2)

    def blind(inputs, wanted):
        qk = student.signals(inputs, Wanted(layers=(0, 1))).qk
        return Signals({**qk, 0: replace(qk[0], q=torch.zeros_like(qk[0].q))}, None).only(wanted)

    batches = [haystacks(rows=[row]).inputs for row in (2, 5)]
    inputs = haystacks(rows=[0, 2]).inputs
    losses = []
    with torch.no_grad():
        for layers in ("all", [(1, 1)]):
            term = replace(args, layers=layers).build(models)
            term.calibrate(CalibrationData(batches, student.signals, blind))
            resumed = replace(args, layers=layers).build(models)
            resumed.load_state_dict(term.state_dict())
            resumed.restored()
            losses += [
                one(student.signals(inputs, one.of_student), blind(inputs, one.of_teacher), inputs)
                for one in (term.eval(), resumed.eval())
            ]
    assert losses[0] > 0
    assert all(torch.equal(loss, losses[0]) for loss in losses[1:])


def test_pairs_are_taught_that_correlate_half_as_much_as_the_best():
    best_P = torch.tensor([0.09, 0.46, 0.36, 0.0])
    assert taught_pairs(best_P, "all") == taught_pairs(best_P, "matched") == [1, 2]
    pairs = [(0, 0), (1, 2), (2, 3), (3, 4)]
    assert taught_pairs(best_P, pairs) == [0, 1, 2]  # named: those with any head


def test_calibration_says_which_pairs_attend_little_alike():
    best_P, pairs = torch.tensor([0.09, 0.46, 0.36, 0.0]), [(0, 0), (1, 2), (2, 3), (3, 4)]
    named = pairs_message(best_P, pairs, pairs)
    assert "[(0, 0), (3, 4)] the heads attend" in named
    assert "; not taught: [(3, 4)]; " in named
    assert "; not taught: [(0, 0), (3, 4)]; " in pairs_message(best_P, pairs, "all")
    assert pairs_message(torch.tensor([0.42, 0.35, 0.17]), pairs[:3], "all") is None
    little = pairs_message(0.1 * best_P, pairs, "matched")
    assert "the highest correlation is 0.21" in little
    assert little.endswith("not taught: [(0, 0), (3, 4)]")


def test_attention_that_is_not_finite_is_refused(student, teacher, haystacks, build_retrieval):
    def broken(inputs, wanted):
        signals = student.signals(inputs, wanted)
        signals.qk[1].q[:] = torch.nan
        return signals

    data = CalibrationData([haystacks(rows=[2]).inputs], broken, teacher.signals)
    with torch.no_grad(), pytest.raises(UserError, match="student or the teacher is not finite"):
        build_retrieval().calibrate(data)


def test_calibration_on_single_images_is_refused(student, teacher, haystacks, build_retrieval):
    """One image is always looked at: no head can be seen to retrieve, and the loss would be 0."""
    term = build_retrieval(calibration=1)
    single = haystacks(rows=[next(r for r in range(6) if haystacks(rows=[r]).inputs.images == 1)])
    data = CalibrationData([single.inputs], student.signals, teacher.signals)
    with torch.no_grad(), pytest.raises(UserError, match="of at most 1 images"):
        term.calibrate(data)


def test_a_bank_that_holds_no_image_is_refused(build_retrieval, student, teacher, haystacks):
    inputs = haystacks(rows=[2]).inputs
    data = CalibrationData([inputs], student.signals, teacher.signals)
    least = int(images_of(inputs).tokens_M.min())
    with torch.no_grad():
        build_retrieval(bank_tokens=least).calibrate(data)
        with pytest.raises(UserError, match=f"bank_tokens {least - 1}: .* has {least} tokens"):
            build_retrieval(bank_tokens=least - 1).calibrate(data)


def test_pairs_are_matched_with_each_models_own_rotation(student, haystacks):
    """The teacher: the student with heads of twice the head_dim, of which one half is zeros."""
    shape = replace(student.shape, head_dim=2 * student.shape.head_dim)
    half = student.shape.head_dim

    def narrow_rotate(x_BLHD, positions_3BL, layer=0):
        return pad(student.rotate(x_BLHD[..., :half], positions_3BL), (0, half))

    def wide(inputs, wanted):
        found = student.signals(inputs, wanted).qk.items()
        qk = {s: QK(pad(one.q * 2**0.5, (0, half)), pad(one.k, (0, half))) for s, one in found}
        return Signals(qk, None)

    models = ModelPair(student.shape, shape, 700, student.rotate, narrow_rotate)
    term = RetrievalArgs(weight=1.0, calibration=2, layers="matched").build(models)
    batches = [haystacks(rows=[row]).inputs for row in (2, 5)]
    with torch.no_grad():
        term.calibrate(CalibrationData(batches, student.signals, wide))
    assert term.pairs == [(0, 0), (1, 1)]


@pytest.mark.parametrize(
    "setting",
    [{"growth": 0.5, "distractors": "none"}, {"distractors": "bank"}],
    ids=lambda setting: next(iter(setting)),
)
def test_settings_that_need_slots_are_refused_without_any(setting):
    with pytest.raises(UserError, match=r"objective\.retrieval\.reach 0 with "):
        RetrievalArgs(reach=0, **setting)


@pytest.mark.parametrize(
    "setting",
    [
        {"rows": 0},
        {"bank_tokens": 0},
        {"reach": -1},
        {"reach": 10**12},
        {"rows": 10**12},
        {"bank_tokens": 10**12},
        {"growth": 1.5},
        {"gamma": -0.1},
        {"gamma": 33},
        {"second_needle": -0.1},
        {"second_needle": 1.5},
    ],
)
def test_a_setting_out_of_range_is_refused(setting):
    (name,) = setting
    with pytest.raises(UserError, match=rf"objective\.retrieval\.{name}"):
        RetrievalArgs(**setting)
