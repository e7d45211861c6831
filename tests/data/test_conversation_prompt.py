"""The prompt of a conversation: images where they stand, answers where they are trained."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from laid.common.errors import UserError
from laid.data.entries import CONVERSATION_FEATURES, HaystackEntry, Turn, dataset_of
from laid.data.prompt import PromptEncoder
from laid.signals.model_inputs import IGNORED

TURNS = (
    Turn("system", "Answer briefly."),
    Turn("user", "See <image> and"),
    Turn("assistant", "A cat."),
    Turn("user", "<image>\nthen <image>, is there a dog?"),
)
ENTRY = HaystackEntry(
    id="my-000001",
    question="then, is there a dog?",
    answer="yes, A dog.",
    size=3,
    images=("a.png", "b.png", "c.png"),
    turns=TURNS,
    source="my.jsonl",
)
TOKENS = (15, 8, 1)


@pytest.fixture
def patches(encoder):
    sizes = ((140, 84), (56, 112), (28, 28))
    return encoder.patches([Image.new("RGB", size, "teal") for size in sizes])


def image(at):
    return f"<|vision_start|>{'<|image_pad|>' * TOKENS[at]}<|vision_end|>"


PROMPT = (
    "<|im_start|>system\nAnswer briefly.<|im_end|>\n"
    f"<|im_start|>user\nSee {image(0)} and<|im_end|>\n"
    "<|im_start|>assistant\nA cat.<|im_end|>\n"
    f"<|im_start|>user\n{image(1)}\nthen {image(2)}, is there a dog?<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def test_images_stay_where_they_stand_and_texts_are_as_they_were_written(encoder, patches):
    decode = encoder.processor.tokenizer.decode
    asked = encoder.encode(ENTRY, *patches, with_answer=False)
    assert decode(asked.input_ids_BL) == PROMPT
    assert (asked.labels_BL == IGNORED).all()
    row = encoder.encode(ENTRY, *patches, with_answer=True)
    assert decode(row.input_ids_BL) == f"{PROMPT}yes, A dog.<|im_end|>"
    assert torch.equal(row.input_ids_BL[: len(asked.input_ids_BL)], asked.input_ids_BL)


def test_it_is_what_the_processors_own_call_makes(encoder, patches):
    row = encoder.encode(ENTRY, *patches, with_answer=False)
    content = [
        [{"type": "text", "text": "Answer briefly."}],
        [
            {"type": "text", "text": "See "},
            {"type": "image"},
            {"type": "text", "text": " and"},
        ],
        [{"type": "text", "text": "A cat."}],
        [
            {"type": "image"},
            {"type": "text", "text": "\nthen "},
            {"type": "image"},
            {"type": "text", "text": ", is there a dog?"},
        ],
    ]
    messages = [{"role": turn.role, "content": c} for turn, c in zip(TURNS, content, strict=True)]
    stock = encoder.processor.stock
    text = stock.apply_chat_template(messages, add_generation_prompt=True)
    pictures = [Image.new("RGB", size, "teal") for size in ((140, 84), (56, 112), (28, 28))]
    made = stock(text=[text], images=pictures, return_tensors="pt")
    assert torch.equal(row.input_ids_BL, made["input_ids"][0])
    assert torch.equal(row.pixel_values_PC, made["pixel_values"])


def test_positions_are_transformers_own(encoder, patches, student):
    row = encoder.encode(ENTRY, *patches, with_answer=True)
    expected, _ = student.hf.model.get_rope_index(
        row.input_ids_BL[None], row.mm_token_type_ids_BL[None], row.image_grid_thw_I3
    )
    assert torch.equal(row.position_ids_3BL, expected[:, 0])


def labelled(encoder, row):
    kept = row.labels_BL != IGNORED
    assert torch.equal(row.labels_BL[kept], row.input_ids_BL[kept])
    return encoder.processor.tokenizer.decode(row.input_ids_BL[kept])


def test_the_last_answer_is_trained_or_all_with_their_ends_of_turn(encoder, patches):
    last = encoder.encode(ENTRY, *patches, with_answer=True)
    assert labelled(encoder, last) == "yes, A dog.<|im_end|>"
    every = PromptEncoder(encoder.processor, every_turn=True)
    both = every.encode(ENTRY, *patches, with_answer=True)
    assert labelled(encoder, both) == "A cat.<|im_end|>yes, A dog.<|im_end|>"
    decode = encoder.processor.tokenizer.decode
    assert decode(both.input_ids_BL) == decode(last.input_ids_BL)
    # To answer, nothing changes.
    asked = every.encode(ENTRY, *patches, with_answer=False)
    assert torch.equal(
        asked.input_ids_BL, encoder.encode(ENTRY, *patches, with_answer=False).input_ids_BL
    )
    assert (asked.labels_BL == IGNORED).all()


def test_lengths_are_known_without_reading_an_image(encoder, patches):
    sizes = dict(zip(ENTRY.images, ((140, 84), (56, 112), (28, 28)), strict=True))
    entries = dataset_of([ENTRY] * 2, CONVERSATION_FEATURES)
    for every_turn in (False, True):
        one = PromptEncoder(encoder.processor, every_turn=every_turn)
        length = len(one.encode(ENTRY, *patches, with_answer=True).input_ids_BL)
        assert one.lengths(entries, sizes) == [length] * 2


def test_of_an_entry_without_images_too(encoder):
    turns = (Turn("user", "Why?"), Turn("assistant", "So."), Turn("user", "And why that?"))
    entry = replace(ENTRY, size=0, images=(), turns=turns)
    nothing = torch.empty(0), torch.empty(0, 3, dtype=torch.long)
    for every_turn in (False, True):
        one = PromptEncoder(encoder.processor, every_turn=every_turn)
        row = one.encode(entry, *nothing, with_answer=True)
        assert one.lengths(dataset_of([entry], CONVERSATION_FEATURES), {}) == [
            len(row.input_ids_BL)
        ]
        assert row.position_ids_3BL.tolist() == [list(range(len(row.input_ids_BL)))] * 3


def test_a_template_that_rewrites_earlier_answers_can_not_train_them(encoder, patches, monkeypatch):
    stock = encoder.processor.stock
    forgetful = stock.chat_template.replace(
        "{%- for message in messages -%}",
        "{%- for message in messages if message.role != 'assistant' -%}",
    )
    monkeypatch.setattr(stock, "chat_template", forgetful)
    every = PromptEncoder(encoder.processor, every_turn=True)
    with pytest.raises(UserError, match=r"data\.train\.turns last"):
        every.encode(ENTRY, *patches, with_answer=True)


def test_the_prefix_is_of_haystacks(encoder, patches):
    other = PromptEncoder(encoder.processor, prefix="Say yes or no: ")
    a, b = (e.encode(ENTRY, *patches, with_answer=True) for e in (encoder, other))
    assert torch.equal(a.input_ids_BL, b.input_ids_BL)
