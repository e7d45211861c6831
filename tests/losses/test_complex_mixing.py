"""Complex mixing weights, and the least-squares start of both kinds."""

import pytest
import torch

from laid.losses.head_mixing import HeadMixing, LeastSquares, MixingArgs, mixture

B, L, S, T, D = 2, 7, 4, 6, 8
COMPLEX = MixingArgs(weights="complex", normalisation="none")


def teacher_heads(seed=0):
    return torch.randn(B, L, T, D, generator=torch.Generator().manual_seed(seed))


def rotated(x_BLHD, angle_BLF):
    """Turns pair (f, f + D/2) by an angle, as RoPE does."""
    cos, sin = angle_BLF.cos()[:, :, None], angle_BLF.sin()[:, :, None]
    a, b = x_BLHD.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def random_complex():
    mixing = HeadMixing(S, T, D, COMPLEX)
    with torch.no_grad():
        mixing.raw.normal_(generator=torch.Generator().manual_seed(1))
    return mixing


def test_complex_weights_commute_with_rope():
    mixing, x = random_complex(), teacher_heads()
    angle = torch.randn(B, L, D // 2, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        mixture(mixing(), rotated(x, angle)), rotated(mixture(mixing(), x), angle)
    )


def test_complex_weights_with_no_imaginary_part_are_real_weights():
    real = HeadMixing(S, T, D, MixingArgs(normalisation="none"))
    same = HeadMixing(S, T, D, COMPLEX)
    torch.testing.assert_close(mixture(same(), teacher_heads()), mixture(real(), teacher_heads()))


def test_complex_weights_undo_a_rotation_inside_a_head_and_real_ones_cannot():
    """The student is the teacher in another basis: each pair turned by an angle of its own."""
    x = teacher_heads()
    angle = torch.linspace(0.3, 3, D // 2).expand(B, L, D // 2)
    student, mask = rotated(x, angle), torch.ones(B, L)
    errors = {}
    for args in (COMPLEX, MixingArgs(normalisation="none")):
        fit = LeastSquares(args.weights == "complex", ridge=1e-6)
        fit.add(student, x, mask)
        mixing = HeadMixing(T, T, D, args)
        mixing.set_weights(fit.solution())
        errors[args.weights] = float((mixture(mixing(), x) - student).square().mean().detach())
    assert errors["complex"] < 1e-6
    assert errors["real"] > 0.1


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_least_squares_finds_the_weights_that_made_the_student(kind):
    args = MixingArgs(weights=kind, normalisation="none")
    true = HeadMixing(S, T, D, args)
    with torch.no_grad():
        true.raw.normal_(generator=torch.Generator().manual_seed(3))
    fit = LeastSquares(kind == "complex", ridge=0.0)
    mask = torch.ones(B, L)
    mask[1, 4:] = 0
    for seed in range(4):
        x = teacher_heads(seed)
        student = mixture(true(), x).detach()
        student[1, 4:] = 1e3  # padding: must not count
        fit.add(student, x, mask)
    found = HeadMixing(S, T, D, args)
    found.set_weights(fit.solution())
    torch.testing.assert_close(found.raw, true.raw, rtol=1e-3, atol=1e-3)


def test_least_squares_beats_every_other_start():
    student = torch.randn(B, L, S, D, generator=torch.Generator().manual_seed(9))
    x, mask = teacher_heads(), torch.ones(B, L)
    fit = LeastSquares(is_complex=False, ridge=0.0)
    fit.add(student, x, mask)
    best = HeadMixing(S, T, D, MixingArgs(normalisation="none"))
    best.set_weights(fit.solution())
    for initial in ("uniform", "one-hot"):
        other = HeadMixing(S, T, D, MixingArgs(normalisation="none", initial=initial))
        assert (mixture(best(), x) - student).square().sum() < (
            mixture(other(), x) - student
        ).square().sum()


def test_under_softmax_the_solution_becomes_shares():
    mixing = HeadMixing(2, 3, D, MixingArgs(initial="least-squares"))
    mixing.set_weights(torch.tensor([[2.0, 1.0, 1.0], [1.0, -3.0, 0.0]]))
    assert (mixing.weights() > 0).all()
    torch.testing.assert_close(mixing.weights()[0], torch.tensor([0.5, 0.25, 0.25]))
    assert mixing.weights()[1].argmax() == 0


def test_figures_show_the_magnitude_of_complex_weights(alignment):
    shown = alignment(weights="complex", normalisation="none").matrices()["q0"].values_ST
    assert shown.shape == (4, 6)
    assert not shown.is_complex()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "complex"}, "no softmax"),
        ({"initial": "least-squares", "keys": "shared"}, "mixing.keys own"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MixingArgs(**settings)
