"""What all sides of a comparison are given: images, haystacks, two models with random weights."""

from collections.abc import Sequence
from pathlib import Path
from shutil import copyfile

import numpy as np
import torch
from PIL import Image

from laid.data.entries import HaystackEntry, dataset_of
from laid.data.prompt import Collate, HaystackDataset, PromptEncoder, Side
from laid.miniature.packaged_models import corpus
from laid.miniature.tiny_models import tiny_config, tiny_processor, write_tiny
from laid.signals.model_inputs import ModelInputs
from laid.vlm.model_loading import ModelArgs
from laid.vlm.processor import ProcessorArgs, load_processor

WIDTH, HEIGHT = 640, 480
VOCABULARY = 152_064
QUESTION = "For the image with a dog, is there a cat?"
LAYERS = {"teacher": 8, "student": 4}


def write(folder: Path, images: int) -> None:
    """Drawn JPEG files of COCO's usual size, and the two models' folders: hidden size 256, Qwen's
    vocabulary size. Weights are drawn by whoever loads them."""
    (folder / "train2017").mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for number in range(images):
        # Coarse colours with a little noise: as large a file as a photograph's.
        small = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(small).resize((WIDTH, HEIGHT), Image.BICUBIC), int)
        noisy = (picture + draw.integers(-20, 21, picture.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / name(number), quality=90)
    processor = tiny_processor(corpus())
    for role, layers in LAYERS.items():
        config = tiny_config(
            processor.tokenizer, layers=layers, heads=8, kv_heads=4, vocab_size=VOCABULARY
        )
        write_tiny(folder / role, config, processor)


def take(folder: Path, photographs: Path, images: int) -> None:
    """Puts so many JPEG files of a folder in the place of the drawn ones."""
    found = sorted(photographs.glob("*.jpg"))[:images]
    if len(found) < images:
        raise SystemExit(f"{photographs} has {len(found)} files *.jpg, expected {images}")
    for number, path in enumerate(found):
        copyfile(path, folder / name(number))


def name(number: int) -> str:
    """The name of an image."""
    return f"train2017/{number:012}.jpg"


def model(folder: Path, role: str, **more: object) -> ModelArgs:
    """One of the two models."""
    return ModelArgs(str(folder / role), random_weights=True, **more)  # type: ignore[arg-type]


def dataset(folder: Path, sizes: Sequence[int], with_answer: bool = True) -> HaystackDataset:
    """Haystacks of so many images each, no image in two; files are read whenever one is asked
    for."""
    entries, first = [], 0
    for number, size in enumerate(sizes):
        shown = tuple(name(image) for image in range(first, first + size))
        entries.append(
            HaystackEntry(
                id=str(number), question=QUESTION, answer="yes", size=size, images=shown,
                needles=(0,),
            )
        )  # fmt: skip
        first += size
    encoder = PromptEncoder(load_processor(ProcessorArgs(str(folder / "student"))))
    return HaystackDataset(dataset_of(entries), folder, encoder, with_answer)


def read(data: HaystackDataset, batch: Sequence[int] = (0,), packed: bool = False) -> ModelInputs:
    """Some of the haystacks, their images decoded anew: side by side, or in one row."""
    side: Side = "right" if data.with_answer else "left"
    collate = Collate(data.encoder.pad_id, side, len(batch) if packed else None)
    return collate([data[at] for at in batch]).inputs


def one_thread() -> None:
    """Of PyTorch's operations, so that a process's time on the processor is that of its work."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
