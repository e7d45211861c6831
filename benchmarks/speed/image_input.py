"""Reading images: from JPEG files to the vision tower's patches, without a model."""

import time
from pathlib import Path

import fixture
from torch.utils.data import DataLoader

from laid.data.prompt import HaystackDataset

HAYSTACK, READ = 10, 12
WORKERS = {"no worker": 0, "one worker": 1, "two workers": 2}
"""Sides, and the processes that read."""


class Again:
    """One haystack as often as wanted."""

    def __init__(self, data: HaystackDataset, times: int):
        self.data, self.times = data, times

    def __len__(self) -> int:
        return self.times

    def __getitem__(self, _: int) -> int:
        return len(self.data[0].inputs.image_names)


def seconds_of_reading(folder: Path, workers: int) -> list[float]:
    """Seconds by the clock for a haystack, on average: workers are processes of their own."""
    data = Again(fixture.dataset(folder, [HAYSTACK]), READ + 1)
    loaded = iter(DataLoader(data, batch_size=None, num_workers=workers))
    next(loaded)  # workers have started
    begun = time.perf_counter()
    images = sum(loaded)
    assert images == HAYSTACK * READ
    return [(time.perf_counter() - begun) / READ]
