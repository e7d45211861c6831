"""What goes into a checkpoint: how far training is, and whether its numbers are finite."""

from typing import Any

from lightning import Trainer
from torch import Tensor

from laid.distributed.sharded_tensors import first_not_finite


def count_from_data(checkpoint: dict[str, Any], place: dict[str, Any]) -> None:
    """Sets Lightning's counts of epochs to what they are just after a batch.

    Its own depend on where training ended and on whether the run was resumed; an epoch that was
    counted already, or once too little, shifts all that come after (Lightning issue 19617).
    """
    if "epoch" not in place:
        return
    epoch = checkpoint["epoch"] = place["epoch"]
    for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
        counts.update(ready=epoch + 1, started=epoch + 1, processed=epoch, completed=epoch)


def not_finite(trainer: Trainer) -> str | None:
    """What of a checkpoint is not finite: weights that are trained, or an optimizer's state."""
    module = trainer.lightning_module
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    names = {parameter: name for name, parameter in trained}
    states = [
        (f"the optimizer's {key} of {names.get(parameter, 'a parameter')}", value)
        for optimizer in trainer.optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    ]
    return first_not_finite([*trained, *states])
