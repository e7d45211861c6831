"""Stops training at the first loss or gradient that is not finite."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from laid.common.errors import UserError

_NAMED = 8
"""Entries that a message names."""


def check_finite(values: Mapping[str, Tensor], step: int, entries: Sequence[str]) -> None:
    """Refuses a step before it changes a weight; one value is read back from the device.

    Args:
        values: scalars by what they are: losses, and gradient norms over all ranks.
        step: the optimizer step that is about to be made, from 1.
        entries: ids of the step's haystacks on this rank.

    Raises:
        UserError: one is NaN or infinite.
    """
    if torch.stack([value.detach().float() for value in values.values()]).isfinite().all():
        return
    odd = [f"{name} {float(value)}" for name, value in values.items() if not value.isfinite()]
    more = f" and {len(entries) - _NAMED} more" if len(entries) > _NAMED else ""
    raise UserError(
        f"step {step}: {', '.join(odd)}; expected finite numbers. The step was not made, and "
        "checkpoints of earlier steps stay. Its haystacks: "
        f"{', '.join(entries[:_NAMED])}{more}. A lower learning rate "
        "(model.optimizer) or trainer.gradient_clip_val may help; a teacher or student whose own "
        "weights are not finite cannot be used."
    )
