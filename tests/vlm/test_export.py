"""A student as a plain Hugging Face folder."""

import json

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from laid.vlm.hf_folder import write_model, write_processor
from laid.vlm.model_loading import ModelArgs, load_model
from laid.vlm.processor import ProcessorArgs, load_processor


@pytest.fixture
def exported(tmp_path, pair):
    args = ModelArgs(str(pair[0]))
    model = load_model(args)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    write_model(tmp_path, args, model.state_dict(), dtype=None)
    write_processor(tmp_path, load_processor(ProcessorArgs(str(pair[0]))))
    return tmp_path, model


def test_plain_transformers_loads_it_with_the_same_logits(exported, haystacks):
    folder, model = exported
    again = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    inputs = haystacks().inputs
    arguments = {
        "input_ids": inputs.input_ids_BL,
        "attention_mask": inputs.attention_mask_BL,
        "mm_token_type_ids": inputs.mm_token_type_ids_BL,
        "pixel_values": inputs.pixel_values_PC,
        "image_grid_thw": inputs.image_grid_thw_I3,
    }
    with torch.no_grad():
        assert torch.equal(again(**arguments).logits, model(**arguments).logits)


def test_the_processor_reads_back_the_same(exported, encoder):
    folder, _ = exported
    ours = encoder.processor
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "For the image with a dog, is there a cat?"
    assert tokenizer(text)["input_ids"] == ours.tokenizer(text)["input_ids"]
    assert tokenizer.chat_template == ours.stock.chat_template
    picture = Image.new("RGB", (200, 130), "olive")
    images = Qwen2VLImageProcessorPil.from_pretrained(folder)
    one = images(picture, return_tensors="pt")
    two = ours.stock.image_processor(picture, return_tensors="pt")
    assert torch.equal(one["pixel_values"], two["pixel_values"])
    stock = json.loads((folder / "preprocessor_config.json").read_text())
    assert stock["processor_class"] == "Qwen2_5_VLProcessor"
    assert stock["image_processor_type"] == "Qwen2VLImageProcessor"


def test_the_configuration_is_readable_by_version_4_too(exported):
    folder, _ = exported
    text = json.loads((folder / "config.json").read_text())["text_config"]
    assert text["rope_theta"] == 1e6
    assert text["rope_scaling"]["type"] == "mrope"
    assert text["rope_scaling"]["mrope_section"] == [4, 6, 6]
    assert text["rope_parameters"]["rope_theta"] == 1e6


def test_a_number_format_can_be_chosen(tmp_path, pair):
    args = ModelArgs(str(pair[0]))
    write_model(tmp_path, args, load_model(args).state_dict(), torch.bfloat16)
    again = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path, dtype="auto")
    assert again.lm_head.weight.dtype == torch.bfloat16


def test_a_state_of_another_model_is_refused(tmp_path, pair):
    state = load_model(ModelArgs(str(pair[1]))).state_dict()
    with pytest.raises(ValueError, match="the checkpoint's student is not a"):
        write_model(tmp_path, ModelArgs(str(pair[0])), state, None)


def test_special_tokens_are_under_the_name_that_version_4_reads(exported, encoder):
    folder, _ = exported
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert "extra_special_tokens" not in config
    assert "<|image_pad|>" in config["additional_special_tokens"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.all_special_tokens == encoder.processor.tokenizer.all_special_tokens
