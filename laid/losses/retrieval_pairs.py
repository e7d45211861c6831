"""Which layer pairs retrieval alignment teaches: those whose heads attend to images alike.

Shape suffixes: P layer pairs.
"""

from torch import Tensor

from laid.losses.layer_pairs import Layers, Pairs

_SHARE = 0.25
"""A pair whose best head weighs less than this share of the best pair's is left out: a weight is
the square of a correlation, so that is half of it."""
_LITTLE = 0.05
"""Best weight of all below which the message after calibration says so."""


def taught_pairs(best_P: Tensor, layers: Layers) -> list[int]:
    """Which pairs are taught, by the weight of each one's best head; all, if they were named.

    The loss of a pair is over its heads' weights, so one without a retrieving head would count as
    much as the others: what its heads cannot find yet, as the first layer's cannot find an object
    by the second word of its name, would be asked of them.
    """
    named = not isinstance(layers, str)
    least = 0.0 if named else _SHARE * float(best_P.max())
    return [pair for pair, best in enumerate(best_P.tolist()) if best and best >= least]


def pairs_message(best_P: Tensor, pairs: Pairs, layers: Layers) -> str | None:
    """What calibration says of the pairs; None, where all of them retrieve."""
    setting = f"objective.retrieval.layers {layers}"
    highest = float(best_P.max())
    if highest < _LITTLE:
        return (
            f"{setting}: no head of the student attends to images much as one of the teacher does; "
            f"the highest correlation is {highest**0.5:.2f}"
        )
    weak = [
        pair for pair, best in zip(pairs, best_P.tolist(), strict=True) if best < _SHARE * highest
    ]
    if not weak:
        return None
    is_named = not isinstance(layers, str)
    said = (
        f"{setting}: in the layer pairs (student, teacher) {weak} the heads attend to images less "
        "than half as much alike as in the best pair, so "
        + ("expect little of them" if is_named else "these pairs are not taught")
    )
    if layers != "matched":
        said += "; with layers matched the teacher's layers are those that attend alike"
    return said
