"""From which words of the questions a model looks for one image.

    python benchmarks/looking_rows.py tiny/teacher-independent --layers 0 2 3

Prints, by haystack size, how often the row that retrieval alignment would teach, if it taught
pairs of these layers, is that of the anchor's name, of the target's, or another; of a name of
several words, its last word, and the words before it. docs/methods.md and docs/experiments.md have
the numbers.
"""

import argparse
from collections import Counter

import torch

from laid.common.errors import UserError
from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import TrainArgs
from laid.losses.image_tokens import images_of
from laid.losses.retrieval_rows import looking_rows
from laid.minicoco.drawing import MINICOCO
from laid.signals.model_signals import Wanted
from laid.vlm.model_loading import ModelArgs
from laid.vlm.vision_language_model import VLM

SIZES = ((2, 5), (6, 10), (11, 20))
KINDS = ("anchor", "anchor's first", "target", "target's first", "other")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a packaged model or a folder")
    parser.add_argument(
        "--entries", type=int, default=160, help="training entries, an even number from 8"
    )
    parser.add_argument("--coco_root", default=MINICOCO, help="COCO folder")
    parser.add_argument("--layers", type=int, nargs="+", help="decoder layers; all unless given")
    options = parser.parse_args()
    try:
        _print_rows(options)
    except UserError as error:
        parser.error(str(error))


def _print_rows(options: argparse.Namespace) -> None:
    model = VLM.load(ModelArgs(options.model))
    layers = options.layers or list(range(model.shape.layers))
    if wrong := sorted(set(layers) - set(range(model.shape.layers))):
        raise UserError(
            f"--layers {wrong[0]}: {options.model} has layers 0 to {model.shape.layers - 1}"
        )
    data = HaystackDataModule(
        options.coco_root,
        train=TrainArgs(entries=options.entries),
        prefix="",
        processor=options.model,
    )
    data.setup("fit")
    decode = data.encoder.processor.tokenizer.decode
    wanted = Wanted(layers=tuple(layers))
    found = {sizes: Counter[str]() for sizes in SIZES}
    for batch in data.probe(data.train_entries, torch.device("cpu")):
        inputs, entry = batch.inputs, batch.entries[0]
        signals = model.signals(inputs, wanted)
        images = images_of(inputs)
        at = int(looking_rows(signals, inputs, images, model.rotate, 1).columns_BR[0, 0])
        *before, word = (
            decode([token]).strip()
            for token in inputs.input_ids_BL[0, int(images.column_N.max()) + 1 : at + 1]
        )
        kind = "target" if "," in before else "anchor"  # "For the image with a dog, is there ..."
        *first, last = getattr(entry, kind).split()
        kind = kind if word == last else f"{kind}'s first" if word in first else "other"
        found[next(s for s in SIZES if s[0] <= entry.size <= s[1])][kind] += 1
    print("images    entries  " + "  ".join(KINDS))
    for (least, most), counts in found.items():
        shares = (f"{counts[kind] / counts.total():{len(kind)}.1%}" for kind in KINDS)
        print(f"{least:2} to {most:2}  {counts.total():7}  " + "  ".join(shares))


if __name__ == "__main__":
    main()
