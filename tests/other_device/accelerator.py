"""The other device for Lightning, as accelerator and strategy ``other``."""

import atexit
import sys
from typing import Any

import torch
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.strategies import SingleDeviceStrategy, StrategyRegistry
from other_device.device import OtherDevice


class OtherAccelerator(Accelerator):
    """One device; all that it has to do, the dispatch mode does."""

    def setup_device(self, device: torch.device) -> None:
        pass

    def teardown(self) -> None:
        pass

    def get_device_stats(self, device: torch.device) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> list[int]:
        return [0]

    @staticmethod
    def get_parallel_devices(devices: list[int]) -> list[torch.device]:
        return [torch.device("other", 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "other"


def register(device: OtherDevice) -> None:
    """For ``--trainer.accelerator other --trainer.strategy other``: with the accelerator alone,
    Lightning takes the CPU for the device of one that it does not know. At the end of the process
    it is said how many operations were there."""
    atexit.register(lambda: print(f"{device.operations} operations on other", file=sys.stderr))
    AcceleratorRegistry.register("other", OtherAccelerator)
    StrategyRegistry.register("other", SingleDeviceStrategy, device=torch.device("other", 0))
