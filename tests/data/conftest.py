import json
import logging
from pathlib import Path
from typing import Any

import pytest

from laid.data.coco_index import CocoIndex
from laid.minicoco.drawing import draw_minicoco

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="session")
def small_coco() -> Path:
    """12 JPEGs of every encoding and their annotations (tests/fixtures/README.md)."""
    return FIXTURES / "coco"


@pytest.fixture
def logged():
    """The messages that laid logs during a test, whatever set_up_logging did before."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("laid")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield messages
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """A drawn data set large enough for haystacks of 100."""
    root = tmp_path_factory.mktemp("drawn") / "minicoco"
    return draw_minicoco(root, images={"train2017": 250, "val2017": 600})


@pytest.fixture(scope="session")
def index(drawn) -> CocoIndex:
    return CocoIndex.load(drawn, "val2017")


@pytest.fixture
def instances() -> dict[str, Any]:
    """A small, valid annotation file: a large cat, a tiny dog, a crowd of people, nothing."""

    def annotation(image: int, category: int, area: float, crowd: int = 0) -> dict[str, Any]:
        outline = [[0, 0, 1.5, 0, 1.5, 1e1], [2, 2, 3, 3, 4, 4]]
        return {
            "id": 10 * image + category,
            "image_id": image,
            "category_id": category,
            "area": area,
            "iscrowd": crowd,
            "segmentation": {"counts": [3, 4], "size": [100, 100]} if crowd else outline,
        }

    return {
        "info": {"year": 2017},
        "images": [
            {"id": k, "file_name": f"{k}.jpg", "width": 100, "height": 100} for k in (4, 3, 2, 1)
        ],
        "annotations": [
            annotation(1, 17, 5000),
            annotation(2, 18, 9.9),
            annotation(3, 1, 5000, crowd=1),
            annotation(3, 17, 5),
            annotation(3, 17, 100),
        ],
        "categories": [
            {"id": 18, "name": "dog"},
            {"id": 1, "name": "person"},
            {"id": 17, "name": "cat"},
        ],
    }


@pytest.fixture
def write_coco(tmp_path):
    """Write a value (or text) as the annotations of split ``val2017``; gives COCO's folder."""

    def write(content: Any) -> Path:
        root = tmp_path / "coco"
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "val2017").mkdir(exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        (root / "annotations" / "instances_val2017.json").write_text(text)
        return root

    return write
