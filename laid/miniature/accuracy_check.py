"""Accuracy on laid's own test entries, from features computed once.

Shape suffixes: B entries, N images, V visual tokens, H hidden, I images of the pool.
"""

from collections.abc import Sequence

import torch
from datasets import Dataset
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from laid.data.coco_index import CocoIndex
from laid.data.haystack_builder import build_entries
from laid.miniature.decoder_training import hidden_states
from laid.miniature.haystack_layout import Layout, Writer
from laid.miniature.image_pool import Pool
from laid.miniature.tower_training import encode_pool


def entries_for(index: CocoIndex, per_size: int, seed: int, sizes: Sequence[int]) -> Dataset:
    """The entries that models are measured with; their role is one that no ``laid`` command has."""
    return build_entries(index, "pretrain-measure", sizes, per_size, seed)


@torch.no_grad()
def measure(
    model: PreTrainedModel,
    pool: Pool,
    entries: Dataset,
    writer: Writer,
    tokens: int = 8192,
) -> dict[int, tuple[int, int]]:
    """How many answers of each size are right, and of how many.

    An answer is the most probable token of the whole vocabulary after the prompt.

    Args:
        model: with its tower.
        pool: the images of the entries.
        entries: of questions about one needle.
        writer: for the prompts.
        tokens: in a batch, at most about.

    Returns:
        (correct, n) by haystack size, ascending.
    """
    model.eval()
    features_IVH = encode_pool(model.model.visual, pool)
    row = {name: at for at, name in enumerate(pool.files)}
    number = {name: at for at, name in enumerate(pool.categories)}
    counts: dict[int, tuple[int, int]] = {}
    sizes = sorted(set(entries["size"]))
    column = entries["size"]
    by_size = {size: [at for at, other in enumerate(column) if other == size] for size in sizes}
    with tqdm(total=len(entries), desc="measuring", unit="question", delay=1) as bar:
        for size in sizes:
            layout = writer.layout(size, 1)
            batch = max(1, tokens // len(layout))
            right = 0
            for at in range(0, len(by_size[size]), batch):
                rows = entries.select(by_size[size][at : at + batch])
                images_BN = torch.tensor([[row[n] for n in names] for names in rows["images"]])
                anchors_B1, targets_B1 = (
                    torch.tensor([[number[name]] for name in rows[key]])
                    for key in ("anchor", "target")
                )
                yes_B1 = torch.tensor([[answer == "yes"] for answer in rows["answer"]])
                ids_BL = writer.write(layout, anchors_B1, targets_B1, yes_B1)
                right += _right(model, layout, ids_BL, features_IVH[images_BN])
                bar.update(len(rows))
            counts[size] = (right, len(by_size[size]))
    return counts


def _right(model: PreTrainedModel, layout: Layout, ids_BL: Tensor, features_BNVH: Tensor) -> int:
    answer = int(layout.answers_Q[0])
    hidden_BLH = hidden_states(model, layout, ids_BL, features_BNVH)
    said_B = model.lm_head(hidden_BLH[:, answer - 1]).argmax(dim=-1)
    return int((said_B == ids_BL[:, answer]).sum())
