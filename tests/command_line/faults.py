"""Faults at a chosen file operation of a process: it dies there, or the system refuses it.

Operations are counted by Python's audit events, so those of every library count that Python opens,
renames and removes files for; and ``os.fsync``, which has none. Each event comes before its
operation.
"""

import errno
import os
import sys
from typing import Any

DIED = 77
"""Exit code of a process that died at its operation."""
CHANGES = frozenset(("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link"))


def inject(
    below: str, count: str, at: int | None = None, error: str | None = None, begin: str = ""
) -> None:
    """Counts this process's changes of files from now on.

    Args:
        below: the folder whose files count.
        count: a file to which the kind of each operation is written, a line each.
        at: the operation, from 0, before which the process dies; None: none.
        error: name of an error number, such as ENOSPC: instead of dying, the operation fails with
            it, and so does every later one that needs space.
        begin: a part of a path; operations before the first on such a path do not count.
    """
    fault = _Fault(below, count, at, error, begin)
    sys.addaudithook(fault.heard)
    sync = os.fsync

    def counted(file: Any) -> None:
        fault.reached("os.fsync", os.readlink(f"/proc/self/fd/{int(_number(file))}"))
        sync(file)

    os.fsync = counted


def _number(file: Any) -> int:
    return file if isinstance(file, int) else file.fileno()


class _Fault:
    def __init__(self, below: str, count: str, at: int | None, error: str | None, begin: str):
        self.below = os.path.realpath(below)
        self.log = os.open(count, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.at, self.error, self.begin = at, error, begin
        self.n = 0
        self.pid = os.getpid()

    def heard(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR):
                self.reached(event, path)
        elif event in CHANGES:
            removed = event in ("os.remove", "os.rmdir") and args[-1] != -1
            # Where a folder is removed, its files are named relative to it.
            folder = os.readlink(f"/proc/self/fd/{args[-1]}") if removed else ""
            self.reached(event, os.path.join(folder, os.fsdecode(args[0])))
        elif event == "ctypes.dlsym" and args[1] == "renameat2":
            self.reached("renameat2", self.below)

    def reached(self, kind: str, path: Any) -> None:
        if os.getpid() != self.pid or isinstance(path, int):
            return
        name = os.fsdecode(path)
        full = os.path.abspath(name)
        if full != self.below and not full.startswith(self.below + os.sep):
            return
        if self.n == 0 and self.begin not in full:
            return
        os.write(self.log, f"{kind} {os.path.basename(full)}\n".encode())
        now, self.n = self.n, self.n + 1
        if self.at is None or now < self.at:
            return
        if self.error is None:
            os._exit(DIED)
        if kind in ("open", "os.fsync", "os.mkdir"):
            number = getattr(errno, self.error)
            raise OSError(number, os.strerror(number), name)
