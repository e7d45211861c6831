"""SIGTERM for several ranks: noted when it comes, obeyed by all ranks at the same place."""

import signal
import threading
from typing import Any

from lightning import Trainer

from laid.distributed.process_group import ranks


class StopRequest:
    """Whether this process was asked to stop.

    Lightning's handler broadcasts from within the signal, wherever the process is; between ranks
    that are inside other collectives that hangs. With one process, Lightning's is left alone.
    """

    def __init__(self) -> None:
        self._asked = False

    def listen(self, trainer: Trainer) -> None:
        """Notes SIGTERM from now on, and passes it on to the ranks that this one has started."""
        if ranks() == 1 or threading.current_thread() is not threading.main_thread():
            return

        def note(number: int, frame: Any) -> None:
            first, self._asked = not self._asked, True
            if first and trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(number)

        signal.signal(signal.SIGTERM, note)

    def agree(self, trainer: Trainer) -> None:
        """Tells Lightning to stop on every rank if any was asked; all ranks call it together."""
        if ranks() > 1 and trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            trainer._signal_connector.received_sigterm = True
