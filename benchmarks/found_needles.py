"""How often a model finds the needle, and how often it then answers rightly.

    python benchmarks/found_needles.py --models kd=runs/table/kd-seed0 \\
      retrieval=runs/table/retrieval-seed0

In "For the image with a dog, is there a cat?" the needle is found if one head, from the last word
of the anchor's name, gives it more than half of its attention to images. Which head that is, is
known only with the label. docs/experiments.md has the numbers.

Shape suffixes: B batch, R rows, H query heads, L tokens of a haystack, M images, N answer tokens, V
vocabulary.
"""

import argparse
from functools import partial

import torch

from laid.common.errors import UserError
from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import EvaluationArgs
from laid.data.prompt import Batch
from laid.inspection.named_models import named_models
from laid.look.attention_shares import head_shares
from laid.losses.attention_rows import Rows, question_rows
from laid.losses.image_tokens import images_of
from laid.minicoco.drawing import MINICOCO
from laid.signals.model_inputs import IGNORED
from laid.signals.model_signals import Wanted
from laid.vlm.vision_language_model import VLM


def anchor_rows(batch: Batch, comma: int) -> Rows:
    """The row of the anchor's last word, which a comma follows."""
    rows, ids_BL = question_rows(batch.inputs), batch.inputs.input_ids_BL
    is_comma_BR = ids_BL.roll(-1, 1).gather(1, rows.columns_BR) == comma
    assert is_comma_BR.any(1).all(), "a question of Visual Haystacks has a comma after the anchor"
    return rows.at(is_comma_BR.int().argmax(1, keepdim=True))


def needle_share(model: VLM, batch: Batch, comma: int) -> tuple[float, bool]:
    """The most that a head gives to the needles of one haystack, of its attention to images; and
    whether the answer's first token is the most probable one."""
    inputs, images = batch.inputs, images_of(batch.inputs)
    rows = anchor_rows(batch, comma)
    asked = Wanted(layers=tuple(range(model.shape.layers)), logits=True)
    signals = model.signals(inputs, asked)
    image_LM = torch.zeros(inputs.input_ids_BL.shape[1], images.images)
    image_LM[images.column_N, images.image_N] = 1.0
    best = 0.0
    for layer, qk in signals.qk.items():
        near, rotate = rows.within(model.shape.window(layer)), partial(model.rotate, layer=layer)
        share_HM = head_shares(qk, near, rotate, image_LM)[:, 0]
        share_H = share_HM[:, inputs.needle_I].sum(-1) / share_HM.sum(-1).clamp(min=1e-12)
        best = max(best, float(share_H.max()))
    assert signals.logits_NV is not None
    answer = inputs.labels_BL[inputs.labels_BL != IGNORED][0]
    return best, bool(signals.logits_NV[0].argmax() == answer)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", required=True, help="NAME=WHAT, as laid spectrum")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 100], help="images")
    parser.add_argument("--per_size", type=int, default=80, help="haystacks of each size")
    parser.add_argument("--coco_root", default=MINICOCO, help="COCO folder")
    options = parser.parse_args()
    try:
        _print_shares(options)
    except UserError as error:
        parser.error(str(error))


def _print_shares(options: argparse.Namespace) -> None:
    print("model             images  entries   found  mean share  right if found  right if not")
    for named in named_models(options.models, None):
        model = named.load(torch.device("cpu"))
        for size in options.sizes:
            data = HaystackDataModule(
                options.coco_root,
                test=EvaluationArgs(None, "val2017", [size], options.per_size),
                prefix="",
                processor=named.args.path,
            )
            data.setup("test")
            comma = data.encoder.processor.tokenizer(",").input_ids[0]
            batches = data.probe(data.test_entries, model.device)
            each = [needle_share(model, batch, comma) for batch in batches]
            found = [right for share, right in each if share > 0.5]
            lost = [right for share, right in each if share <= 0.5]
            right = [f"{sum(of)}/{len(of)}" if of else "-" for of in (found, lost)]
            mean = sum(share for share, _ in each) / len(each)
            print(
                f"{named.name:16}  {size:6}  {len(each):7}  {len(found) / len(each):6.1%}  "
                f"{mean:10.1%}  {right[0]:>14}  {right[1]:>12}"
            )


if __name__ == "__main__":
    main()
