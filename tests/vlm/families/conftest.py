"""Every family, with a tiny student and teacher of it. A new one is a line of ``CASES``."""

from dataclasses import replace

import pytest
import torch
from qwen2_vl import Qwen2VL, tiny_qwen2_vl

from laid.data.coco_index import CocoIndex
from laid.data.haystack_builder import build_entries
from laid.data.prompt import Collate, HaystackDataset, PromptEncoder
from laid.miniature.packaged_models import corpus
from laid.miniature.tiny_models import tiny_config, tiny_model, tiny_processor, write_tiny
from laid.vlm.families.qwen2_5_vl import Qwen25VL
from laid.vlm.families.registry import FAMILIES
from laid.vlm.model_loading import ModelArgs
from laid.vlm.processor import ProcessorArgs, load_processor
from laid.vlm.vision_language_model import VLM

CASES = {
    Qwen25VL: tiny_config,
    Qwen2VL: tiny_qwen2_vl,
}
"""Families, and what makes a tiny configuration of each."""


@pytest.fixture(scope="session", params=CASES, ids=lambda family: family.model_type)
def family(request):
    """A family, in the registry while it is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, request.param.model_type, request.param)
        yield request.param


@pytest.fixture(scope="session")
def models(family, tmp_path_factory):
    """Folders of a student and a teacher with weights; heads and layers differ."""
    root = tmp_path_factory.mktemp(family.model_type)
    processor = tiny_processor(corpus())
    shapes = {
        "student": {"layers": 2, "heads": 4, "kv_heads": 2},
        "teacher": {"layers": 3, "heads": 6, "kv_heads": 3},
    }
    for seed, (name, shape) in enumerate(shapes.items()):
        config = CASES[family](processor.tokenizer, **shape)
        write_tiny(root / name, config, replace(processor, family=family(config)))
        torch.manual_seed(seed)
        tiny_model(config).save_pretrained(root / name)
    return root / "student", root / "teacher"


@pytest.fixture
def vlm(models):
    """The student."""
    return VLM.load(ModelArgs(str(models[0])))


@pytest.fixture(scope="session")
def encode(models):
    """The family's prompt encoder."""
    return PromptEncoder(load_processor(ProcessorArgs(str(models[0]))))


@pytest.fixture(scope="session")
def batch(drawn, encode):
    """Entries of 1, 3 and 4 images, encoded: a function to model inputs."""
    index = CocoIndex.load(drawn, "val2017")
    entries = build_entries(index, "test", [1, 3, 4], per_size=2, seed=5)

    def make(with_answer=True, side="right", rows=range(6)):
        data = HaystackDataset(entries, drawn, encode, with_answer)
        return Collate(encode.pad_id, side)([data[row] for row in rows]).inputs

    return make
