"""Which layer pairs retrieval alignment teaches: those whose heads attend to images alike.

Shape suffixes: P layer pairs, S student heads.
"""

from torch import Tensor

from laid.common.errors import UserError
from laid.losses.layer_pairs import Layers, Pairs
from laid.losses.term import CalibrationData

_SHARE = 0.25
"""A pair whose best head weighs less than this share of the best pair's is left out. A weight is
the square of a correlation, so in correlations this is a half."""
_LITTLE = 0.05
"""Where the best weight of all pairs is below this, the message after calibration says so."""


def taught_pairs(best_P: Tensor, layers: Layers) -> list[int]:
    """Which pairs are taught, by the weight of each one's best head. Of pairs that were named only
    those are left out that have no retrieving head at all.

    The loss of a pair is divided by the sum of its heads' weights, so one whose heads hardly
    retrieve would count as much as the others.
    """
    least = _SHARE * float(best_P.max()) if isinstance(layers, str) else 0.0
    return [pair for pair, best in enumerate(best_P.tolist()) if best and best >= least]


def pairs_message(best_P: Tensor, pairs: Pairs, layers: Layers) -> str | None:
    """What calibration says of the pairs; None, where all of them retrieve."""
    highest, taught = float(best_P.max()), taught_pairs(best_P, layers)
    weak = [
        pair for pair, best in zip(pairs, best_P.tolist(), strict=True) if best < _SHARE * highest
    ]
    out = [pair for at, pair in enumerate(pairs) if at not in taught]
    said = []
    if highest < _LITTLE:
        said.append(
            "no head of the student attends to images much as one of the teacher does (the highest "
            f"correlation is {highest**0.5:.2f})"
        )
    if weak:
        said.append(
            f"in the layer pairs (student, teacher) {weak} the heads attend to images less than "
            "half as much alike as in the best pair"
        )
    if out:
        said.append(f"not taught: {out}")
    if weak and layers != "matched":
        said.append("with layers matched the teacher's layers are those that attend alike")
    return f"objective.retrieval.layers {layers}: {'; '.join(said)}" if said else None


def check_weights(heads_PS: Tensor, data: CalibrationData) -> None:
    """Raises:
    UserError: a weight is not finite, or all are 0.
    """
    found_on = f"in {len(data.batches)} training entries of at most "
    found_on += f"{max(batch.images for batch in data.batches)} images"
    if not heads_PS.isfinite().all():
        raise UserError(
            "objective.retrieval: the attention of the student or the teacher is not finite "
            f"{found_on}; expected models whose queries and keys are finite in their dtype"
        )
    if not heads_PS.any():
        raise UserError(
            "objective.retrieval: no head of the student attends to one image more than to others "
            f"as a teacher head does, {found_on}; expected entries of at least 2 images "
            "(data.train.max_size), and more of them (objective.retrieval.calibration)"
        )
