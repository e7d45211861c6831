"""A tiny student and teacher of every family."""

import pytest
from bare_entry import batch_of
from cli.conftest import laid, work  # noqa: F401  # fixtures
from distributed.conftest import on_ranks  # noqa: F401
from tiny_families import CASES
from tiny_pairs import write_pair

from laid.data.coco_index import CocoIndex
from laid.data.haystack_builder import build_entries
from laid.data.prompt import PromptEncoder
from laid.vlm.model_loading import ModelArgs
from laid.vlm.online_teacher import OnlineTeacher
from laid.vlm.processor import ProcessorArgs, load_processor
from laid.vlm.vision_language_model import VLM


@pytest.fixture(scope="session", params=CASES, ids=lambda family: family.model_type)
def family(request):
    return request.param


@pytest.fixture(scope="session")
def models(family, tmp_path_factory):
    """Folders of a student and a teacher with weights; heads and layers differ."""
    return write_pair(family, tmp_path_factory.mktemp(family.model_type))


@pytest.fixture
def vlm(models):
    """The student."""
    return VLM.load(ModelArgs(str(models[0])))


@pytest.fixture
def teacher(models):
    return OnlineTeacher(VLM.load(ModelArgs(str(models[1]))))


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
        return batch_of(entries, drawn, encode, with_answer, side, rows).inputs

    return make
