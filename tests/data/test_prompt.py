"""The prompt: images first, question last, positions in three rows."""

import pytest
import torch
from PIL import Image
from torch.utils.data import SequentialSampler

from laid.data.coco_index import CocoIndex
from laid.data.datamodule import HaystackDataModule
from laid.data.entries import HaystackEntry, dataset_of
from laid.data.haystack_builder import build_entries
from laid.data.loader import padded_loader
from laid.data.prompt import PREFIX, Collate, HaystackDataset, PromptEncoder
from laid.vlm.processor import ProcessorArgs, load_processor

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


@pytest.fixture
def pictures():
    return [Image.new("RGB", size, "teal") for size in ((140, 84), (56, 112))]


def test_images_come_first_then_prefix_and_question(encoder, pictures):
    row = encoder.encode(ENTRY, *encoder.patches(pictures), with_answer=True)
    text = encoder.processor.tokenizer.decode(row.input_ids_BL)
    images = "".join(
        f"<|vision_start|>{'<|image_pad|>' * tokens}<|vision_end|>" for tokens in (15, 8)
    )
    assert text == (
        f"<|im_start|>user\n{images}{PREFIX}{ENTRY.question}<|im_end|>\n"
        "<|im_start|>assistant\nNo<|im_end|>"
    )


def test_it_is_what_the_processors_own_call_makes(encoder, pictures):
    row = encoder.encode(ENTRY, *encoder.patches(pictures), with_answer=False)
    content = [{"type": "image"}, {"type": "image"}]
    content += [{"type": "text", "text": PREFIX + ENTRY.question}]
    text = encoder.processor.stock.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    made = encoder.processor.stock(text=[text], images=pictures, return_tensors="pt")
    assert torch.equal(row.input_ids_BL, made["input_ids"][0])
    assert torch.equal(row.mm_token_type_ids_BL, made["mm_token_type_ids"][0])
    assert torch.equal(row.pixel_values_PC, made["pixel_values"])
    assert torch.equal(row.image_grid_thw_I3, made["image_grid_thw"])


def test_positions_are_those_of_both_models_and_differ_where_there_is_an_image(
    encoder, pictures, student, teacher
):
    row = encoder.encode(ENTRY, *encoder.patches(pictures), with_answer=True)
    for vlm in (student, teacher):
        expected, _ = vlm.hf.model.get_rope_index(
            row.input_ids_BL[None], row.mm_token_type_ids_BL[None], row.image_grid_thw_I3
        )
        assert torch.equal(row.position_ids_3BL, expected[:, 0])
    time, height, width = row.position_ids_3BL
    image = row.mm_token_type_ids_BL == 1
    assert image.sum() == 23
    for a, b in ((time, height), (time, width), (height, width)):
        assert (a[image] != b[image]).any()
        assert (a[~image] == b[~image]).all()


def test_an_entry_that_does_not_fit_is_refused_by_name_and_length(encoder, pictures):
    length = len(encoder.encode(ENTRY, *encoder.patches(pictures), with_answer=True).input_ids_BL)
    fitting = PromptEncoder(encoder.processor, max_length=length)
    assert (
        len(fitting.encode(ENTRY, *fitting.patches(pictures), with_answer=True).input_ids_BL)
        == length
    )
    short = PromptEncoder(encoder.processor, max_length=length - 1)
    with pytest.raises(ValueError, match=rf"test-2-000000 is {length} tokens long \(2 images\)"):
        short.encode(ENTRY, *short.patches(pictures), with_answer=True)


def test_pixel_limits(pair, pictures):
    small = PromptEncoder(load_processor(ProcessorArgs(str(pair[0]), max_pixels=28 * 28 * 4)))
    row = small.encode(ENTRY, *small.patches(pictures), with_answer=False)
    assert (row.mm_token_type_ids_BL == 1).sum() <= 8
    with pytest.raises(ValueError, match="0 < min_pixels <= max_pixels"):
        load_processor(ProcessorArgs(str(pair[0]), min_pixels=9000, max_pixels=8000))


def test_qwens_own_tokenizer_gives_the_known_ids(qwen):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(qwen / "tokenizer")
    ids = tokenizer(ENTRY.question)["input_ids"]
    assert ids == [2461, 279, 2168, 448, 264, 5562, 11, 374, 1052, 264, 8251, 30]
    assert tokenizer("Yes")["input_ids"] == [9454]
    assert tokenizer("No")["input_ids"] == [2753]


def test_a_batch_holds_the_entries_and_which_of_them_count(encoder, drawn):
    entries = build_entries(CocoIndex.load(drawn, "val2017"), "test", [2, 3], per_size=2)
    data = HaystackDataset(entries, drawn, encoder, with_answer=False)
    batch = Collate(encoder.pad_id, "left")([data[3], data[~0]])
    assert batch.entries == [HaystackEntry.of(entries[3]), HaystackEntry.of(entries[0])]
    assert batch.counted == [True, False]
    # Lightning moves it as it moves every batch, and a device without memory shows that it does.
    moved = HaystackDataModule().transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved.inputs.input_ids_BL.is_meta
    assert (moved.entries, moved.counted) == (batch.entries, batch.counted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is pinned for a GPU")
def test_a_batch_that_a_gpu_takes_is_in_pinned_memory(encoder, drawn):
    entries = build_entries(CocoIndex.load(drawn, "val2017"), "test", [2, 3], per_size=2)
    data = HaystackDataset(entries, drawn, encoder, with_answer=False)
    (first, *_) = padded_loader(data, SequentialSampler(data), 2, "left", workers=0)
    assert first.inputs.input_ids_BL.is_pinned()
    assert first.inputs.pixel_values_PC.is_pinned()
    assert first.entries == [HaystackEntry.of(entries[0]), HaystackEntry.of(entries[1])]


def test_entries_survive_the_way_into_a_dataset_and_back():
    (row,) = dataset_of([ENTRY])
    assert HaystackEntry.of(row) == ENTRY
    assert row["images"] == ["a.png", "b.png"]
