"""Accuracy on laid's own test entries, from image features that are computed once.

Shape suffixes: E entries, B of them in a batch, N images, L tokens, V visual tokens, H hidden,
I images of the pool.
"""

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel

from laid.data.coco_index import CocoIndex
from laid.data.haystack_builder import build_entries
from laid.miniature.decoder_training import hidden_states
from laid.miniature.haystack_layout import Writer
from laid.miniature.image_pool import Pool
from laid.miniature.tower_training import encode_pool


def entries_for(index: CocoIndex, per_size: int, seed: int, sizes: Sequence[int]) -> Dataset:
    """Entries to measure models on; no ``laid`` command draws with their role."""
    return build_entries(index, "pretrain-measure", sizes, per_size, seed)


@torch.no_grad()
def measure(
    model: PreTrainedModel, pool: Pool, entries: Dataset, writer: Writer, tokens: int = 8192
) -> dict[int, tuple[int, int]]:
    """(correct, n) by haystack size, ascending, on single-needle questions.

    An answer is the most probable token of the whole vocabulary after the prompt. A batch has at
    most about ``tokens`` tokens.
    """
    model.eval()
    features_IVH = encode_pool(model.model.visual, pool)
    row = {name: at for at, name in enumerate(pool.files)}
    number = {name: at for at, name in enumerate(pool.categories)}
    sizes_E = np.array(entries["size"])
    counts: dict[int, tuple[int, int]] = {}
    with tqdm(total=len(entries), desc="measuring", unit="question", delay=1) as bar:
        for size in np.unique(sizes_E).tolist():
            of_size = np.flatnonzero(sizes_E == size).tolist()
            layout = writer.layout(size, 1)
            answer = int(layout.answers_Q[0])
            batch = max(1, tokens // len(layout))
            correct = 0
            for at in range(0, len(of_size), batch):
                rows = entries.select(of_size[at : at + batch])
                images_BN = torch.tensor([[row[n] for n in names] for names in rows["images"]])
                anchors_B1 = torch.tensor([[number[name]] for name in rows["anchor"]])
                targets_B1 = torch.tensor([[number[name]] for name in rows["target"]])
                yes_B1 = torch.tensor([[said == "yes"] for said in rows["answer"]])
                ids_BL = writer.write(layout, anchors_B1, targets_B1, yes_B1)
                hidden_BLH = hidden_states(model, layout, ids_BL, features_IVH[images_BN])
                answers_B = model.lm_head(hidden_BLH[:, answer - 1]).argmax(dim=-1)
                correct += int((answers_B == ids_BL[:, answer]).sum())
                bar.update(len(rows))
            counts[size] = (correct, len(of_size))
    return counts
