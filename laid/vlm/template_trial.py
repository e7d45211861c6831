"""Tries a chat template in a process of its own: it is a program of whoever made the folder.

jinja's sandbox keeps it from the machine, but not from loops and texts without end.
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress

from laid.common.errors import UserError

_SECONDS, _WALL_SECONDS, _BYTES, _CHARACTERS = 2, 60, 2**30, 100_000


def try_template(render: Callable[[], str], path: str) -> None:
    """Renders a short prompt once, with little time and memory.

    Raises:
        UserError: it fails or does not end.
    """
    if not hasattr(os, "fork"):  # not POSIX
        return
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = "it fails"
        try:
            _limit()
            rendered = render()
            said = (
                "ok" if len(rendered) <= _CHARACTERS else f"it renders {len(rendered)} characters"
            )
        except BaseException as reason:
            said = f"{type(reason).__name__}: {reason}"
        finally:
            os.write(writing, said.encode()[:1000])
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    os.waitpid(child, 0)
    if said != "ok":
        raise UserError(
            f"the chat template of {path!r} cannot be used: "
            + (" ".join(said.split()) or f"it does not end within {_SECONDS} s")
            + ". Expected one that makes a short prompt of two images and a word"
        )


def _limit() -> None:
    import resource  # not on Windows, which has no fork either

    # Also ends a process that waits for a lock which another thread held at the fork.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_WALL_SECONDS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    with suppress(OSError, ValueError), open("/proc/self/statm", encoding="ascii") as file:
        most = int(file.read().split()[0]) * resource.getpagesize() + _BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
