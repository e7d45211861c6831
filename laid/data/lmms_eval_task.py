"""The functions of a haystack task in lmms-eval.

``laid data build --format lmms-eval`` copies this file beside the task's YAML; it needs Pillow and
nothing of laid. It does what ``laid test`` does, by ``load_image`` of ``laid.data.image_files`` and
``score_answer`` of ``laid.evaluation.scoring``.
"""

import re
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageOps


def doc_to_visual(doc: dict[str, Any]) -> list[Image.Image]:
    """The images of a haystack, in the order they are shown."""
    return [_opened(path) for path in doc["images"]]


def doc_to_text(doc: dict[str, Any]) -> str:
    """The question, with the prompt before it."""
    return str(doc["question"])


def doc_to_messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """One turn: the images first, then the question."""
    content: list[dict[str, Any]] = [
        {"type": "image", "url": image} for image in doc_to_visual(doc)
    ]
    content.append({"type": "text", "text": doc_to_text(doc)})
    return [{"role": "user", "content": content}]


def process_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Whether the right word, yes or no, is among the answer's words."""
    words = re.findall(r"[^\W\d_]+", results[0].lower())
    score = float(doc["answer"].strip().lower() in words)
    return {"haystack_accuracy": {"id": doc["id"], "size": doc["size"], "score": score}}


def accuracy(scored: Sequence[dict[str, Any]]) -> float:
    """The mean of what ``process_results`` gave."""
    return sum(float(of["score"]) for of in scored) / len(scored)


def _opened(path: str) -> Image.Image:
    with Image.open(path) as file:
        image: Image.Image = file
        if image.mode.startswith("I"):
            image = image.point(lambda value: value / 256, "L")
        image = ImageOps.exif_transpose(image)
        if not image.has_transparency_data:
            return image.convert("RGB")
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
