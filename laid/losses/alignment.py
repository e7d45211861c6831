"""Head-level alignment: Eq. 7 of the paper, with masks, for one layer pair.

Shape suffixes: B batch, L tokens, S student heads, T teacher heads, D numbers in a head.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from laid.common.errors import UserError
from laid.losses.reduction import mean_by_entry


@dataclass
class AlignmentArgs:
    """Head-level alignment, L_LAid of Eq. 7."""

    layers: Literal["final", "all", "matched"] | list[tuple[int, int]] = "final"
    """Which student layer is aligned with which teacher layer. final: the last with the last, as
    in the paper (27 of 7B or 35 of 3B with 63 of 32B). all: each student layer with the teacher
    layer at the same relative depth. matched: each student layer with the teacher layer whose
    attention rows it resembles most on `mixing.calibration` training entries. Or a list of
    pairs: [[27, 63], [13, 31]]."""
    reduction: Literal["mean", "sum"] = "mean"
    """mean over tokens, heads and numbers of a head, and over layer pairs; or the sum of Eq. 7."""
    normalise: bool = True
    """Divide each error by the teacher's mean square, so that the weight of the loss means the
    same for models of every size. Only with reduction mean."""


def layer_pairs(
    args: AlignmentArgs, student_layers: int, teacher_layers: int
) -> list[tuple[int, int]]:
    """The (student layer, teacher layer) pairs that ``args.layers`` names.

    ``matched`` begins as ``all``, until calibration has compared attention rows.

    Raises:
        UserError: a layer that does not exist, an empty list, or a pair given twice.
    """
    if args.layers == "final":
        return [(student_layers - 1, teacher_layers - 1)]
    if args.layers in ("all", "matched"):
        if student_layers == 1:
            return [(0, teacher_layers - 1)]
        depth = (teacher_layers - 1) / (student_layers - 1)
        # Halves go up: of two teacher layers equally near, the later has seen more.
        return [(s, int(s * depth + 0.5)) for s in range(student_layers)]
    assert not isinstance(args.layers, str)
    pairs = [(s, t) for s, t in args.layers]
    if not pairs:
        raise UserError("alignment.layers is empty: give final, all or pairs such as [[27, 63]]")
    for s, t in pairs:
        if not (0 <= s < student_layers and 0 <= t < teacher_layers):
            raise UserError(
                f"alignment.layers: no pair [{s}, {t}]; the student has layers 0 to "
                f"{student_layers - 1} and the teacher 0 to {teacher_layers - 1}"
            )
    if len(set(pairs)) < len(pairs):
        raise UserError(f"alignment.layers: a pair is given twice in {pairs}")
    return pairs


def alignment_loss(
    x_BLSD: Tensor, mixed_BLSD: Tensor, raw_BLTD: Tensor, mask_BL: Tensor, args: AlignmentArgs
) -> Tensor:
    """Squared distance of the student's queries (or keys) from the mixed teacher's.

    RoPE, the same rotation on both sides, would not change it (Eq. 5 against Eq. 3).

    Args:
        x_BLSD: the student's.
        mixed_BLSD: the mixture of the teacher's heads.
        raw_BLTD: the teacher's own, whose mean square normalises the error.
        mask_BL: 1 for a token, 0 for padding, which never counts.
    """
    error_BLSD = (x_BLSD.float() - mixed_BLSD).square()
    if args.reduction == "sum":
        return (error_BLSD.sum((2, 3)) * mask_BL).sum(-1).mean()
    error_BL = error_BLSD.mean((2, 3))
    if args.normalise:
        power_BL = raw_BLTD.detach().float().square().mean((2, 3)) * mask_BL
        power_B1 = power_BL.sum(-1, keepdim=True) / mask_BL.sum(-1, keepdim=True).clamp(min=1)
        error_BL = error_BL / power_B1.clamp(min=1e-12)
    return mean_by_entry(error_BL, mask_BL)
