"""SIGTERM, as a cluster sends it, and Ctrl-C end a command with exit code 143 and 130."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """A signal has ended the work before it was done.

    Attributes:
        signal: SIGTERM or SIGINT. The exit code is 128 more, as shells have it.
        at_once: whether it was raised wherever the program was, rather than between two batches.
        advice: how to go on, for the message.
    """

    def __init__(self, number: int, at_once: bool = True):
        super().__init__(128 + number)
        self.signal = signal.Signals(number)
        self.at_once = at_once
        self.advice = ""

    def __str__(self) -> str:
        name = "Ctrl-C" if self.signal == signal.SIGINT else self.signal.name
        return f"stopped by {name}" + (f". {self.advice}" if self.advice else "")


_raised: list[int] = []
"""Signals that have raised. Python drops what is raised in a destructor or a callback at a fork."""


def on_stop(act: Callable[[int], None]) -> None:
    """Calls ``act`` with the signal's number at SIGTERM and Ctrl-C, and now if one has come before
    and was dropped; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        return
    process = os.getpid()

    def handle(number: int, frame: object) -> None:
        if os.getpid() == process:
            act(number)
        elif number != signal.SIGINT:  # a terminal sends that to forked workers too
            os._exit(128 + number)

    for number in _SIGNALS:
        signal.signal(number, handle)
    while _raised:
        act(_raised.pop())


def stop_at_once(number: int) -> None:
    _raised.append(number)
    raise Stopped(number)


@contextmanager
def stops_raised() -> Iterator[None]:
    """In the block SIGTERM and Ctrl-C raise ``Stopped``, and temporary files are removed."""
    before = [signal.getsignal(number) for number in _SIGNALS]
    _raised.clear()
    on_stop(stop_at_once)
    try:
        yield
    except Exception as error:
        if _raised:  # what a signal unwinds may fail in its turn, as torch's contexts do
            raise Stopped(_raised[-1]) from error
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in zip(_SIGNALS, before, strict=True):
                signal.signal(number, handler)
