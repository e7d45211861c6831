"""The real command line, in children of a process that has imported everything (fork_server.py)."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

TESTS = Path(__file__).parents[1]


def environment() -> dict[str, str]:
    """The environment of a command, in this process or another."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    fixed = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **fixed}


@dataclass(frozen=True)
class Done:
    """A command that has ended.

    Attributes:
        code: its exit code; minus the number of the signal that killed it.
        out, err: what it printed.
    """

    words: Sequence[str]
    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Standard error without the progress bars."""
        lines = re.split(r"[\r\n]", self.err)
        return "\n".join(line for line in lines if line.strip() and "it/s]" not in line)

    def __str__(self) -> str:
        last = (self.said or self.out).strip().splitlines()[-1:]
        command = f"laid {' '.join(self.words)}"
        ends = f"exit code {self.code}: {' '.join(last)[:500]}"
        return f"{ends}\n{command}\n{self.out[-2000:]}{self.said[-4000:]}"


class Server:
    """Starts commands."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ready = False

    def ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if not self._ready:
            assert self._process.stdout.readline(), "the process that commands are forked from died"
            self._ready = True
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


class Running:
    """A command that was started, in a process group of its own."""

    def __init__(
        self,
        server: Server,
        words: Sequence[object],
        logs: Path,
        folder: Path,
        variables: Mapping[str, str] = MappingProxyType({}),
        longest_s: float = 900,
        **more: Any,
    ):
        """Starts it.

        Args:
            logs: where its output goes.
            folder: the one that it runs in.
            variables: over the environment of all commands.
            longest_s: against one that waits for ever; several ranks share what cores there are.
            more: limits, a fault, ``other_device`` and ``own_laid`` (the folder has a copy of the
                package, which runs), as ``fork_server`` takes them.
        """
        self._server, self._longest_s = server, longest_s
        self.words = [str(word) for word in words]
        logs.mkdir(exist_ok=True)
        number = len(list(logs.glob("*.out")))
        self._out, self._err = logs / f"{number}.out", logs / f"{number}.err"
        self._out.touch()
        start = {
            "words": self.words,
            "folder": str(folder),
            "environment": {**environment(), **variables},
            "out": str(self._out),
            "err": str(self._err),
            **more,
        }
        self.pid: int = server.ask({"start": start})

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        code: int | None = self._server.ask({"poll": self.pid})
        return code

    def send(self, number: signal.Signals, group: bool = False) -> None:
        """Sends a signal, to the data workers too if ``group``."""
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    @property
    def said(self) -> str:
        """What it has printed so far."""
        return self._read(self._out) + self._read(self._err)

    def wait(self) -> Done:
        """Waits for its end.

        Raises:
            TimeoutError: it did not end; it is killed.
        """
        begun = time.monotonic()
        while (code := self.poll()) is None:
            if time.monotonic() - begun > self._longest_s:
                self.send(signal.SIGKILL, group=True)
                raise TimeoutError(f"laid {' '.join(self.words)}: {self.said[-4000:]}")
            time.sleep(0.01)
        return Done(self.words, code, self._read(self._out), self._read(self._err))

    @staticmethod
    def _read(path: Path) -> str:
        return path.read_text("utf-8", "replace") if path.exists() else ""
