"""What the tests share: tiny models of the real classes, a drawn COCO, real COCO if at hand."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from bare_entry import batch_of
from command_line.commands import Server
from command_line.help_texts import read_once
from transformers import Qwen2_5_VLForConditionalGeneration

from laid.data.coco_index import CocoIndex
from laid.data.haystack_builder import build_entries
from laid.data.prompt import PromptEncoder
from laid.miniature.packaged_models import corpus
from laid.miniature.tiny_models import tiny_config, tiny_processor, write_tiny
from laid.minicoco.drawing import draw_minicoco
from laid.vlm.model_loading import ModelArgs
from laid.vlm.processor import ProcessorArgs, load_processor
from laid.vlm.vision_language_model import VLM

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """The tests leave the user's cache alone."""
    read_once()
    os.environ["LAID_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    torch.set_num_threads(1)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    monkeypatch.setenv("LAID_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """What the command line is run by."""
    server = Server()
    yield server
    server.close()


def _beside(name: str, what: str) -> Path:
    """A folder beside the project; a test that needs it is skipped without it."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs {what} in {name}/ beside the project")
    return folder


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """159 real COCO images."""
    return _beside("coco-mini", "real COCO images")


@pytest.fixture(scope="session")
def qwen() -> Path:
    """Qwen2.5-VL's own configurations and tokenizer."""
    return _beside("qwen2.5-vl", "Qwen2.5-VL's configurations")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn COCO of 120 images a split."""
    root = tmp_path_factory.mktemp("drawn") / "coco"
    draw_minicoco(root, seed=3, images={"train2017": 120, "val2017": 120, "test2017": 120})
    return root


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a student and a teacher with weights; heads, layers and vocabulary differ."""
    root = tmp_path_factory.mktemp("models")
    processor = tiny_processor(corpus())
    shapes = {
        "student": {"layers": 2, "heads": 4, "kv_heads": 2},
        "teacher": {"layers": 3, "heads": 6, "kv_heads": 3, "vocab_size": 800},
    }
    for seed, (name, shape) in enumerate(shapes.items()):
        config = tiny_config(processor.tokenizer, vision_hidden=32, **shape)
        write_tiny(root / name, config, processor)
        torch.manual_seed(seed)
        Qwen2_5_VLForConditionalGeneration._from_config(config).save_pretrained(root / name)
    return root / "student", root / "teacher"


@pytest.fixture
def student(pair: tuple[Path, Path]) -> VLM:
    return VLM.load(ModelArgs(str(pair[0])))


@pytest.fixture
def teacher(pair: tuple[Path, Path]) -> VLM:
    return VLM.load(ModelArgs(str(pair[1])))


@pytest.fixture(scope="session")
def full_forward():
    """transformers' own forward pass of a batch: a function of (vlm, inputs, more arguments)."""

    def run(vlm, inputs, **more):
        return vlm.hf(
            input_ids=inputs.input_ids_BL,
            attention_mask=inputs.attention_mask_BL,
            position_ids=inputs.position_ids_3BL,
            mm_token_type_ids=inputs.mm_token_type_ids_BL,
            pixel_values=inputs.pixel_values_PC,
            image_grid_thw=inputs.image_grid_thw_I3,
            **more,
        )

    return run


@pytest.fixture(scope="session")
def encoder(pair: tuple[Path, Path]) -> PromptEncoder:
    return PromptEncoder(load_processor(ProcessorArgs(str(pair[0]))))


@pytest.fixture(scope="session")
def haystacks(drawn: Path, encoder: PromptEncoder):
    """Entries of 1, 3 and 4 images, encoded: a function of (with_answer, side) to a batch."""
    index = CocoIndex.load(drawn, "val2017")
    entries = build_entries(index, "test", [1, 3, 4], per_size=2, seed=5)

    def batch(with_answer: bool = True, side: str = "right", rows=range(6)):
        return batch_of(entries, drawn, encoder, with_answer, side, rows)

    return batch
