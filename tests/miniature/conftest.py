"""A small drawn pool and a small model, for all of the pretraining's tests."""

import runpy
from pathlib import Path

import pytest
import torch
from cli.conftest import laid, work  # noqa: F401  # fixtures of tests/cli

from laid.miniature.haystack_layout import Writer
from laid.miniature.image_pool import Pool
from laid.miniature.packaged_models import CONFIGS, packaged_config, packaged_processor
from laid.minicoco.drawing import draw_minicoco

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def two_words():
    """What benchmarks/two_word_names.py defines."""
    return runpy.run_path(str(BENCHMARKS / "two_word_names.py"))


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("minicoco") / "drawn"
    return draw_minicoco(folder, seed=5, images={"train2017": 400, "val2017": 50})


@pytest.fixture(scope="session")
def pool(root):
    return Pool.load(root, "train2017")


@pytest.fixture(scope="session", params=CONFIGS)
def processor(request):
    """Of every family that ``laid pretrain tiny`` makes."""
    return packaged_processor(request.param)


@pytest.fixture(scope="session")
def config(processor):
    return packaged_config("student", processor)


@pytest.fixture(scope="session")
def writer(processor, pool):
    return Writer(processor, pool.categories)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
