"""From which words of the questions a model looks for one image.

    python benchmarks/looking_rows.py tiny/teacher-independent

Prints, by haystack size, how often the row that retrieval alignment would teach is that of the
anchor's name, of the target's, or another. docs/methods.md has the numbers.
"""

import argparse

import torch

from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import TrainArgs
from laid.losses.image_tokens import images_of
from laid.losses.retrieval_rows import looking_rows
from laid.signals.model_signals import Wanted
from laid.vlm.model_loading import ModelArgs
from laid.vlm.vision_language_model import VLM

SIZES = ((2, 5), (6, 10), (11, 20))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a packaged model or a folder")
    parser.add_argument("--entries", type=int, default=160, help="training entries")
    options = parser.parse_args()
    model = VLM.load(ModelArgs(options.model))
    data = HaystackDataModule(
        train=TrainArgs(entries=options.entries), prefix="", processor=options.model
    )
    data.setup("fit")
    decode = data.encoder.processor.tokenizer.decode
    wanted = Wanted(layers=tuple(range(model.shape.layers)))
    found = {sizes: [0, 0, 0] for sizes in SIZES}
    for batch in data.probe(data.train_entries, torch.device("cpu")):
        inputs, entry = batch.inputs, batch.entries[0]
        signals = model.signals(inputs, wanted)
        rows = looking_rows(signals, inputs, images_of(inputs), model.rotate, 1)
        word = decode([inputs.input_ids_BL[0, rows.columns_BR[0, 0]]]).strip()
        names = [name.split()[-1] for name in (entry.anchor, entry.target)]
        kind = names.index(word) if word in names else 2
        found[next(s for s in SIZES if s[0] <= entry.size <= s[1])][kind] += 1
    print("images    entries  anchor  target  other")
    for (least, most), counts in found.items():
        n = sum(counts)
        shares = "  ".join(f"{count / n:6.1%}" for count in counts)
        print(f"{least:2} to {most:2}  {n:7}  {shares}")


if __name__ == "__main__":
    main()
