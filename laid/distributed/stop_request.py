"""SIGTERM on several ranks: noted on arrival, obeyed by all ranks after the same step."""

import signal
import threading
from typing import Any

from lightning import Trainer

from laid.distributed.process_group import world_size


class StopRequest:
    """Whether this process has received SIGTERM.

    Lightning's handler broadcasts from within the signal handler, which deadlocks when the ranks
    are in other collectives at that moment. With one process Lightning's handler stays.
    """

    def __init__(self) -> None:
        self._received = False

    def listen(self, trainer: Trainer) -> None:
        """Installs the handler, which also sends SIGTERM on to the ranks this one has started."""
        if world_size() == 1 or threading.current_thread() is not threading.main_thread():
            return

        def note(number: int, frame: Any) -> None:
            first, self._received = not self._received, True
            if first and trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(number)

        signal.signal(signal.SIGTERM, note)

    def agree(self, trainer: Trainer) -> None:
        """Stops Lightning on every rank if any has received SIGTERM; all ranks call it together."""
        if world_size() > 1 and trainer.strategy.reduce_boolean_decision(self._received, all=False):
            trainer._signal_connector.received_sigterm = True
