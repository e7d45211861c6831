"""Reading images: from JPEG files to the vision tower's patches, without a model."""

import time
from pathlib import Path

import fixture
from torch.utils.data import DataLoader

from laid.data.image_files import load_image
from laid.data.prompt import HaystackDataset

HAYSTACK, READ = 10, 12
STOCK = "stock processor"
WORKERS = {"no worker": 0, "one worker": 1, "two workers": 2, STOCK: 0}
"""Sides, and the processes that read. The last is transformers' processor called on question and
images at once."""


class Again:
    """One haystack as often as wanted."""

    def __init__(self, data: HaystackDataset, times: int, stock: bool):
        self.data, self.times, self.stock = data, times, stock

    def __len__(self) -> int:
        return self.times

    def __getitem__(self, _: int) -> int:
        if not self.stock:
            return len(self.data[0].inputs.image_names)
        entry, processor = self.data.entries[0], self.data.encoder.processor.stock
        images = [load_image(Path(self.data.root) / name) for name in entry["images"]]
        content = [{"type": "image"}] * len(images) + [{"type": "text", "text": entry["question"]}]
        text = processor.apply_chat_template([{"role": "user", "content": content}])
        return len(processor(text=[text], images=images, return_tensors="pt")["image_grid_thw"])


def seconds_of_reading(folder: Path, side: str) -> list[float]:
    """Wall-clock seconds for a haystack, on average: workers are processes of their own."""
    data = Again(fixture.dataset(folder, [HAYSTACK]), READ + 1, side == STOCK)
    loaded = iter(DataLoader(data, batch_size=None, num_workers=WORKERS[side]))
    next(loaded)  # workers have started
    begun = time.perf_counter()
    images = sum(loaded)
    assert images == HAYSTACK * READ
    return [(time.perf_counter() - begun) / READ]
