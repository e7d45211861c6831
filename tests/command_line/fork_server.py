"""Runs many commands of laid for the price of one start of torch.

The process imports all that ``laid`` imports and reads requests from standard input. For each
command it forks. The child has the words, environment, session, signals and limits of its own, and
does what ``python -m laid`` does: exit code, messages and tracebacks are the real ones, and ranks
that Lightning starts are new processes. Only what an import reads from the environment is the
server's.

A request is a line of JSON, and so is the answer: ``{"start": {...}}`` gives the child's process
id, ``{"poll": PID}`` its exit code, as ``subprocess`` counts it, or null while it runs.
"""

import atexit
import gc
import json
import os
import resource
import signal
import sys
import threading
from contextlib import ExitStack, redirect_stderr
from importlib import import_module
from io import StringIO
from runpy import run_module
from typing import Any

WARM = (
    "lightning.pytorch",
    "matplotlib.pyplot",
    "tensorboard.backend.event_processing.event_accumulator",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
)


def serve() -> dict[str, Any]:
    """Answers requests; returns in each child what it has to run."""
    import_module("torch").set_num_threads(1)
    for command in import_module("laid.cli.main").COMMANDS:
        import_module(command.function.partition(":")[0])
    for name in WARM:
        import_module(name)
    import_module("command_line.help_texts").read_once()
    import_module("laid.settings.run_settings").settings_parser("laid")
    # transformers compiles its patterns of names with the first model that it loads.
    with redirect_stderr(StringIO()):
        student = import_module("laid.vlm.model_loading").ModelArgs("tiny/student")
        import_module("laid.vlm.vision_language_model").VLM.load(student)
    # What is frozen stays shared with the children.
    gc.collect()
    gc.freeze()
    codes: dict[int, int] = {}
    _answer("ready")
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            if os.fork() == 0:
                os.setsid()
                _answer(os.getpid())  # only now can its group be signalled
                return request["start"]
        else:
            pid = request["poll"]
            if pid not in codes:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    codes[pid] = os.waitstatus_to_exitcode(status)
            _answer(codes.get(pid))
    os._exit(0)


def _answer(value: object) -> None:
    print(json.dumps(value), flush=True)


def become(start: dict[str, Any]) -> None:
    """Makes this child a process as a shell starts one."""
    for number, path in ((0, os.devnull), (1, start["out"]), (2, start["err"])):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(start["environment"])
    os.chdir(start["folder"])
    sys.path[:1] = [start["folder"], *os.environ["PYTHONPATH"].split(os.pathsep)]
    sys.argv = ["laid", *start["words"]]
    if start.get("own_laid"):
        for name in [name for name in sys.modules if name.partition(".")[0] == "laid"]:
            del sys.modules[name]
        import_module("lightning.pytorch.strategies").StrategyRegistry.remove("laid_fsdp")
    limits = {
        "file_bytes": resource.RLIMIT_FSIZE,
        "cpu_s": resource.RLIMIT_CPU,
        "memory_bytes": resource.RLIMIT_DATA,
    }
    for name, limit in limits.items():
        if start.get(name) is not None:
            resource.setrlimit(limit, (start[name], start[name]))


def run_command() -> None:
    """What ``python -m laid`` does, but that the memory is not taken apart at the end."""
    code = 0
    try:
        run_module("laid", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    become(todo := serve())
    if todo.get("fault"):
        from command_line.faults import inject

        inject(**todo["fault"])
    with ExitStack() as within:
        if todo.get("other_device"):
            device = within.enter_context(import_module("other_device.device").other_device())
            import_module("other_device.accelerator").register(device)
        run_command()
