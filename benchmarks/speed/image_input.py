"""Images a second: from JPEG files to the vision tower's patches, without a model."""

import argparse
import time
from pathlib import Path

import fixture
from side_by_side import Report
from torch.utils.data import DataLoader

from laid.common.tables import Table
from laid.data.prompt import HaystackDataset

HAYSTACK = 10


class Again:
    """One haystack as often as wanted."""

    def __init__(self, data: HaystackDataset, times: int):
        self.data, self.times = data, times

    def __len__(self) -> int:
        return self.times

    def __getitem__(self, _: int) -> int:
        return len(self.data[0].inputs.image_names)


def image_input(folder: Path, args: argparse.Namespace) -> Report:
    """In the process itself, and by one and two workers."""
    rows, content = [], {}
    for workers in (0, 1, 2):
        data = Again(fixture.dataset(folder, HAYSTACK), times=12)
        loaded = iter(DataLoader(data, batch_size=None, num_workers=workers))
        next(loaded)  # workers have started
        begun = time.perf_counter()
        images = sum(loaded)
        speed = images / (time.perf_counter() - begun)
        content[workers] = {"images": images, "a_second": speed}
        rows.append([str(workers) if workers else "none", str(images), f"{speed:.1f}"])
    title = f"Images of {fixture.WIDTH} x {fixture.HEIGHT}, decoded and cut into patches"
    table = Table("input", title, ["workers", "images", "images a second"], rows)
    return Report("input", table, content)
