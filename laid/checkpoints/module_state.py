"""Which weights of a module a checkpoint holds, and whether a checkpoint's fit."""

from collections.abc import Mapping

from lightning import LightningModule
from torch import Tensor, nn

from laid.common.errors import UserError
from laid.distributed.sharded_tensors import first_not_finite

OBJECTIVE = "objective."
"""Prefix of what the loss terms learn, in a module's state."""


def without_frozen(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state of the module less the parameters that training leaves as they are."""
    # Tied weights are one parameter of two names, and a state has both.
    named = module.named_parameters(remove_duplicate=False)
    frozen = {name for name, parameter in named if not parameter.requires_grad}
    return {name: value for name, value in state.items() if name not in frozen}


def held(module: LightningModule, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a checkpoint holds of the module's state: with adapters not the weights beneath them."""
    return state if module.strict_loading else without_frozen(module, state)


def check_fits(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Compares names and shapes of a module's weights with a checkpoint's.

    Raises:
        UserError: they are of models of another shape.
    """
    odd = [key for key in ours.keys() | theirs.keys() if _shape(ours, key) != _shape(theirs, key)]
    if odd:
        first = min(odd)
        raise UserError(
            f"the checkpoint does not fit the model: {len(odd)} tensors differ, such as "
            f"{first} ({_shape(theirs, first)} there, {_shape(ours, first)} here). Leave "
            "model.student, model.lora, model.rope_gain and the terms of model.objective as the "
            "run has them."
        )


def refuse_not_finite(state: Mapping[str, Tensor], whose: str) -> None:
    """Refuses weights with a NaN or an infinity; all ranks ask together.

    Raises:
        UserError: on every rank, if one has such a weight.
    """
    if (name := first_not_finite(state.items())) is not None:
        raise UserError(f"{whose} is not finite: {name} holds a NaN or an infinity")


def part_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights of one part, by their names within it."""
    return {k.removeprefix(prefix): value for k, value in state.items() if k.startswith(prefix)}


def drop(state: dict[str, Tensor], prefix: str) -> None:
    """Removes the weights of one part, in place."""
    for key in [key for key in state if key.startswith(prefix)]:
        del state[key]


def _shape(state: Mapping[str, Tensor], key: str) -> list[int] | None:
    return list(state[key].shape) if key in state else None
