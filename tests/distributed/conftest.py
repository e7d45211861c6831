"""Several processes on the CPU (gloo), and the real command line with several ranks."""

import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cli.conftest import config, laid, start, work  # noqa: F401  # the fixtures of tests/cli
from torch.distributed.device_mesh import init_device_mesh


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _rank(rank: int, ranks: int, port: int, function: Callable, folder: str, args: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks
    )
    try:
        mesh = init_device_mesh("cpu", (ranks,))
        torch.save(function(mesh, *args), f"{folder}/{rank}.pt")
        dist.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


@pytest.fixture
def on_ranks(tmp_path: Path) -> Callable[..., list[Any]]:
    """Runs ``function(mesh, *args)`` on so many ranks; returns the results by rank."""

    def run(ranks: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        folder = tmp_path / f"ranks-{free_port()}"
        folder.mkdir()
        arguments = (ranks, free_port(), function, str(folder), args)
        started = mp.start_processes(
            _rank, arguments, nprocs=ranks, start_method="fork", join=False
        )
        # Not its own join, which kills the others as soon as one has failed.
        for process in started.processes:
            process.join(120)
        codes = [process.exitcode for process in started.processes]
        if any(codes):
            for process in started.processes:
                process.kill()
            raise RuntimeError(f"ranks ended with {codes}")
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]

    return run
