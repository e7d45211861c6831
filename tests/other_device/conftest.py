"""What runs on the other device, in processes of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
import torch.utils.backend_registration
from cli.conftest import config, work  # noqa: F401  # fixtures


def _child(_: int, function: Callable[..., Any], path: Path, args: tuple[Any, ...]) -> None:
    from other_device.device import other_device

    with other_device() as device:
        found = function(device, *args)
    torch.save(found, path)


@pytest.fixture(scope="session")
def registrable() -> None:
    """Skips what needs the device where PyTorch is too old for it."""
    if not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("needs a torch that takes a device written in Python")


@pytest.fixture
def on_device(registrable: None, tmp_path: Path) -> Callable[..., Any]:
    """Gives what ``function(device, *args)`` returns in a child process that has the device; what
    it raises is raised here, with its traceback."""

    def run(function: Callable[..., Any], *args: Any) -> Any:
        path = tmp_path / "found.pt"
        mp.start_processes(_child, (function, path, args), start_method="fork")
        return torch.load(path, weights_only=False)

    return run
