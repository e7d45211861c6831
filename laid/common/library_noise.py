"""Messages of the libraries that tell the user of laid nothing."""

import logging
import warnings

import datasets


def quiet() -> None:
    """Leaves them out."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(_tells)
    for message in (
        # A run's folder is made before, and a resumed run has checkpoints in its own.
        "Checkpoint directory .* exists and is not empty",
        # Ours is; Lightning looks for it in the loader, we keep it in the data module.
        "You're resuming from a checkpoint .* dataloader is not resumable",
        # We give it the command line as typed, less what the checkpoint's settings add.
        "LightningCLI's args parameter is intended to run from within Python",
        # Lightning's own, with the torch of today.
        ".*treespec, LeafSpec.*",
        # The command that tests a run needs none of them.
        "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
        # Every rank has the sums of all.
        r"It is recommended to use `self.log\('val/accuracy",
        # How many workers are best is the user's to measure.
        "The '.*_dataloader' does not have many workers",
    ):
        warnings.filterwarnings("ignore", message)
    datasets.disable_progress_bars()


def _tells(record: logging.LogRecord) -> bool:
    # The second repeats val_check_interval, in tests too.
    return not any(part in record.getMessage() for part in ("Tip:", "was configured so validation"))
