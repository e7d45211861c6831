"""Prompts, kept features and answers of every family."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from laid.data.entries import HaystackEntry, dataset_of
from laid.data.prompt import PREFIX
from laid.signals.model_signals import Wanted
from laid.vlm.model_loading import ModelArgs, load_model
from laid.vlm.vision_language_model import VLM
from laid.vlm.window_extension import SelfExtendArgs, YarnArgs

LOGITS = Wanted(layers=(0, 1), logits=True)
ENTRY = HaystackEntry(
    id="test-2-000000",
    question="For the image with a dog, is there a cat?",
    answer="no",
    anchor="dog",
    target="cat",
    mode="single",
    size=2,
    images=("a.png", "b.png"),
    needles=(1,),
)


def test_a_prompt_is_what_the_stock_processor_makes(encode):
    pictures = [Image.new("RGB", size, "teal") for size in ((140, 84), (56, 112))]
    stock = encode.processor.stock
    row = encode.encode(ENTRY, *encode.patches(pictures), with_answer=False)
    content = [{"type": "image"}, {"type": "image"}]
    content += [{"type": "text", "text": PREFIX + ENTRY.question}]
    text = stock.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    made = stock(text=[text], images=pictures, return_tensors="pt")
    assert torch.equal(row.input_ids_BL, made["input_ids"][0])
    assert torch.equal(row.pixel_values_PC, made["pixel_values"])
    answered = encode.encode(ENTRY, *encode.patches(pictures), with_answer=True)
    answer = answered.labels_BL[answered.labels_BL >= 0]
    assert stock.tokenizer.decode(answer) == "No" + encode.processor.family.end_of_turn


def test_the_length_of_a_prompt_is_known_from_the_sizes_of_its_images(encode):
    sizes = {"a": (140, 84), "b": (56, 112), "c": (300, 200)}
    entries = dataset_of(
        replace(ENTRY, size=len(names), images=tuple(names)) for names in ("a", "bc", "caab")
    )
    expected = []
    for row in entries:
        pictures = [Image.new("RGB", sizes[name]) for name in row["images"]]
        inputs = encode.encode(HaystackEntry.of(row), *encode.patches(pictures), with_answer=True)
        expected.append(len(inputs.input_ids_BL))
    assert encode.lengths(entries, sizes) == expected


@torch.no_grad()
def test_features_that_were_kept_are_those_of_the_pixels(vlm, batch):
    inputs, prompts = batch(), batch(with_answer=False, side="left")
    plain = vlm.hf(**vlm.family.arguments(inputs), pixel_values=inputs.pixel_values_PC).logits
    each_once, answers = vlm.signals(inputs, LOGITS), vlm.answer(prompts, 4)
    pieces = inputs.pixel_values_PC.split(inputs.image_grid_thw_I3.prod(-1).tolist())
    for at, name in enumerate(inputs.image_names):
        vlm.learn([name], pieces[at], inputs.image_grid_thw_I3[at : at + 1], 1.0)
    blind = replace(inputs, pixel_values_PC=torch.empty(0))
    kept = vlm.signals(blind, LOGITS)
    # To rounding: a product of one image and of several may be added up in another order.
    torch.testing.assert_close(kept.logits_NV, each_once.logits_NV)
    torch.testing.assert_close(kept.qk[1].q, each_once.qk[1].q)
    torch.testing.assert_close(vlm.hf(**vlm._arguments(blind)).logits, plain)
    blind = replace(prompts, pixel_values_PC=torch.empty(0))
    assert torch.equal(vlm.answer(blind, 4), answers)


def assert_most_probable(vlm, inputs):
    """Of five tokens, against forward passes without a cache, of the prompt and what was said so
    far."""
    answer = vlm.answer(inputs, max_new_tokens=5)[0].tolist()
    for at, token in enumerate(answer):
        said = torch.tensor([answer[:at]], dtype=torch.long)
        ids = torch.cat([inputs.input_ids_BL, said], dim=1)
        visual = torch.cat([inputs.mm_token_type_ids_BL, torch.zeros_like(said)], dim=1)
        longer = replace(
            inputs,
            input_ids_BL=ids,
            attention_mask_BL=torch.ones_like(ids),
            mm_token_type_ids_BL=visual,
            position_ids_3BL=vlm.family.positions(ids, visual, inputs.image_grid_thw_I3),
        )
        assert vlm.hf(**vlm._arguments(longer)).logits[0, -1].argmax() == token


@torch.no_grad()
def test_an_answer_is_the_most_probable_continuation(vlm, batch):
    assert_most_probable(vlm, batch(with_answer=False, side="left", rows=[2]))


def test_the_batch_size_does_not_change_answers(vlm, batch):
    options = {"with_answer": False, "side": "left"}
    alone = [vlm.answer(batch(**options, rows=[row]), 4)[0].tolist() for row in range(6)]
    for size in (3, 6):
        together = []
        for start in range(0, 6, size):
            together += vlm.answer(batch(**options, rows=range(start, start + size)), 4).tolist()
        assert [row[: len(one)] for row, one in zip(together, alone, strict=True)] == alone


EXTENSIONS = {
    "yarn": (YarnArgs(1.0, 64), YarnArgs(4.0, 16)),
    "self-extend": (SelfExtendArgs(1, 5), SelfExtendArgs(4, 8)),
}
"""Settings that change nothing, and others."""


@pytest.mark.parametrize("name", EXTENSIONS)
@torch.no_grad()
def test_a_window_extension_is_refused_or_works(vlm, models, family, batch, name):
    """It answers as the model does where it changes nothing; else with a cache as without one."""
    args, (nothing, something) = ModelArgs(str(models[0])), EXTENSIONS[name]
    if name in family.not_extended:
        with pytest.raises(ValueError, match=f"window_extension {name}: not for {family.title}: "):
            load_model(args, nothing)
        return
    prompts = batch(with_answer=False, side="left")
    extended = VLM.load(args, extension=nothing)
    assert torch.equal(extended.answer(prompts, 4), vlm.answer(prompts, 4))
    extended = VLM.load(args, extension=something)
    inputs = batch()
    logits = [one.signals(inputs, LOGITS).logits_NV for one in (vlm, extended)]
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    assert_most_probable(extended, batch(with_answer=False, side="left", rows=[4]))
