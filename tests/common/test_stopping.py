"""A signal ends a command, also where Python drops what it raises."""

import os
import signal

import pytest

from laid.common.stopping import Stopped, on_stop, stops_raised


class Interrupted:
    """Receives a signal in its destructor, whose exceptions are dropped."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_raises():
    with pytest.raises(Stopped) as stop, stops_raised():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.code == 143


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_was_dropped_counts_once_somebody_listens():
    heard = []
    with stops_raised():
        Interrupted()
        assert not heard
        on_stop(heard.append)
    assert heard == [signal.SIGTERM]


def test_a_signal_of_the_last_command_is_not_the_next_ones():
    with pytest.raises(Stopped), stops_raised():
        os.kill(os.getpid(), signal.SIGTERM)
    with stops_raised():
        on_stop(lambda number: pytest.fail("an old signal"))


def test_an_error_of_what_a_signal_unwinds_does_not_hide_the_signal():
    def unwound():
        with stops_raised():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                raise RuntimeError("a context that can't be left")

    with pytest.raises(Stopped) as stop:
        unwound()
    assert stop.value.code == 143
