"""SIGTERM and Ctrl-C while batches are computed: obeyed between two of them, by all ranks alike."""

import logging
import signal
from functools import partial
from typing import Any

from lightning import Callback, LightningModule, Trainer

from laid.common.stopping import Stopped, on_stop
from laid.distributed.process_group import gather, world_size

log = logging.getLogger(__name__)


class StopRequest(Callback):
    """Raises ``Stopped`` on every rank before the next batch if any has received a signal; with
    several ranks before the next optimizer step. A second Ctrl-C stops at once.

    Lightning's own handler of SIGTERM broadcasts from within, which deadlocks when the ranks are in
    other collectives at that moment, and its prediction does not stop.
    """

    def __init__(self) -> None:
        self._received: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._received = None

    def _listen(self, trainer: Trainer, pl_module: LightningModule) -> None:
        on_stop(partial(self._note, trainer))

    # Not earlier: until then a signal stops at once. Lightning puts the handlers before back.
    on_train_start = on_validation_start = on_test_start = on_predict_start = _listen

    def _note(self, trainer: Trainer, number: int) -> None:
        if self._received is None:
            self._received = number
            if trainer.strategy.launcher is not None:  # of the ranks that this one has started
                trainer.strategy.launcher.kill(signal.SIGTERM)
            log.warning("stopping after this batch; Ctrl-C (again) stops at once")
        elif number == signal.SIGINT:
            raise Stopped(number)

    def _obey(self, trainer: Trainer, *args: Any) -> None:
        stops = self._received is not None
        if world_size() > 1:
            stops = trainer.strategy.reduce_boolean_decision(stops, all=False)
        if stops:
            number = next(one for one in gather(self._received) if one is not None)
            raise Stopped(number, at_once=False)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if world_size() == 1 or batch_idx % trainer.accumulate_grad_batches == 0:
            self._obey(trainer)

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self._obey(trainer)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start
