"""Messages on stderr, one format for all: ``laid: ...``; and fewer of the libraries' own.

Every module logs to ``logging.getLogger(__name__)``. Results (tables, answers, plans) are printed
to stdout instead.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from laid.common.first_rank import is_first_rank
from laid.common.printable import printable

_LIGHTNING = ("lightning.pytorch", "lightning.fabric")
_UNHELPFUL_WARNINGS = (
    # A run's folder is made before, and a resumed run has checkpoints in its own.
    "Checkpoint directory .* exists and is not empty",
    # Ours is; Lightning looks for it in the loader, we keep it in the data module.
    "You're resuming from a checkpoint .* dataloader is not resumable",
    # Lightning's own, with the torch of today.
    ".*treespec, LeafSpec.*",
    # What is predicted for a cache is in the cache.
    "predict returned None if it was on purpose",
    # The command that tests a run needs none of them.
    "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
    # Every rank has the sums of all.
    r"It is recommended to use `self.log\('val/accuracy",
    # How many workers are best is the user's to measure.
    "The '.*_dataloader' does not have many workers",
    # The only one with gradients whose name is public.
    "torch.distributed.nn.functional.all_gather is deprecated",
)


def set_up_logging(verbose: bool = False, quiet: bool = False) -> None:
    """Sends laid's messages to stderr, those below an error from rank 0 alone.

    Args:
        verbose: also details, and what is otherwise left out of the libraries' messages.
        quiet: warnings and errors only.
    """
    handler = _ToStderr()
    handler.setFormatter(_Printable("laid: %(message)s"))
    handler.addFilter(lambda record: record.levelno >= logging.ERROR or is_first_rank())
    laid = logging.getLogger("laid")
    laid.handlers = [handler]
    laid.propagate = False
    laid.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    for name in _LIGHTNING:
        logging.getLogger(name).setLevel(logging.WARNING if quiet else logging.INFO)
        logging.getLogger(f"{name}.utilities.rank_zero").addFilter(_is_helpful)
    # Read when datasets is imported, which takes seconds.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not verbose:
        for message in _UNHELPFUL_WARNINGS:
            warnings.filterwarnings("ignore", message)


@contextmanager
def without_repeats() -> Iterator[None]:
    """Leaves out messages in the same words as an earlier one: data may be set up again for each of
    several models."""
    filters = [(handler, _Once()) for handler in logging.getLogger("laid").handlers]
    for handler, once in filters:
        handler.addFilter(once)
    try:
        yield
    finally:
        for handler, once in filters:
            handler.removeFilter(once)


class _Once(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = text not in self._said
        self._said.add(text)
        return new


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _ToStderr(logging.StreamHandler):
    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr  # as it is now: tests replace it
        super().emit(record)


def _is_helpful(record: logging.LogRecord) -> bool:
    # The second repeats val_check_interval, in tests too.
    unhelpful = ("Tip:", "was configured so validation")
    verbose = logging.getLogger("laid").isEnabledFor(logging.DEBUG)
    return verbose or not any(part in record.getMessage() for part in unhelpful)
