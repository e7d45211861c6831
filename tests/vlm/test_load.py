"""Which model, how it is held, and whether two fit together."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from laid.common.errors import UserError
from laid.miniature.packaged_models import LAYERS, corpus, packaged_config, packaged_processor
from laid.miniature.tiny_models import write_tiny
from laid.signals.model_signals import AttentionShape
from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import ModelArgs, load_config, load_model
from laid.vlm.model_paths import resolve_model
from laid.vlm.pair_check import check_pair
from laid.vlm.processor import ProcessorArgs, load_processor


def test_random_weights_depend_on_the_seed_alone(pair):
    def weights(seed):
        torch.manual_seed(torch.seed() % 1000)
        model = load_model(ModelArgs(str(pair[0]), random_weights=True, seed=seed))
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_a_folder_without_weights_is_not_filled_with_random_ones(tmp_path, pair):
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(pair[0] / name, tmp_path)
    with pytest.raises(ValueError, match="cannot load the weights"):
        load_model(ModelArgs(str(tmp_path)))


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "nowhere", "a/b/c"])
def test_a_folder_that_does_not_exist_is_named(path):
    with pytest.raises(ValueError, match=f"no model folder '{path}'"):
        load_config(ModelArgs(path))


def test_an_unknown_packaged_model_lists_the_known():
    with pytest.raises(ValueError, match="tiny/student, tiny/student-positions, tiny/teacher"):
        resolve_model("tiny/nobody")


def test_another_architecture_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(ValueError, match="qwen2 model: expected qwen2_5_vl"):
        load_config(ModelArgs(str(tmp_path)))


def test_ligers_kernels_need_a_gpu(pair):
    with pytest.raises(UserError, match="no GPU, or the liger-kernel package is not installed"):
        load_model(ModelArgs(str(pair[0]), liger=True))


def test_flash_attention_that_is_not_installed_is_refused(pair):
    with pytest.raises(ValueError, match="neither flash-attn nor the kernels"):
        load_model(ModelArgs(str(pair[0]), attn_implementation="flash_attention_2"))


def test_a_pair_of_the_same_family_fits(pair):
    student, teacher = (load_config(ModelArgs(str(path))) for path in pair)
    vocabulary = load_processor(ProcessorArgs(str(pair[0]))).tokenizer.get_vocab()
    check_pair(student, teacher, vocabulary, vocabulary, ["laid"])


def test_a_pair_that_does_not_fit_is_refused_with_everything_that_differs(pair):
    student, teacher = (load_config(ModelArgs(str(path))) for path in pair)
    teacher.text_config.num_attention_heads = 3
    teacher.text_config.rope_parameters["rope_theta"] = 1e4
    vocabulary = load_processor(ProcessorArgs(str(pair[0]))).tokenizer.get_vocab()
    other = {**vocabulary, "Yes": 5, "new": 9999}
    with pytest.raises(ValueError, match="do not fit together") as refusal:
        check_pair(student, teacher, vocabulary, other, ["laid"])
    message = str(refusal.value)
    assert "head_dim: student 32, teacher 64" in message
    assert "rope_theta: student 1000000.0, teacher 10000.0" in message
    assert "2 tokens have other ids" in message
    assert "leave out" not in message  # would not help
    with pytest.raises(ValueError, match=r"leave out objective\.laid"):
        check_pair(student, teacher, vocabulary, vocabulary, ["laid"])


def test_heads_matter_to_terms_that_compare_them_alone(pair):
    student, teacher = (load_config(ModelArgs(str(path))) for path in pair)
    teacher.text_config.num_attention_heads = 3  # of head_dim 64
    check_pair(student, teacher, {"a": 1}, {"a": 1}, [])
    teacher.image_token_id += 1
    with pytest.raises(ValueError, match="image_token_id: student") as refusal:
        check_pair(student, teacher, {"a": 1}, {"a": 1}, [])
    assert "head_dim" not in str(refusal.value)


def test_qwens_configurations_have_the_known_heads_and_fit_together(qwen):
    shapes = {
        size: family_of(AutoConfig.from_pretrained(qwen / size)).shape
        for size in ("3b", "7b", "32b")
    }
    assert shapes == {
        "3b": AttentionShape(layers=36, heads=16, kv_heads=2, head_dim=128),
        "7b": AttentionShape(layers=28, heads=28, kv_heads=4, head_dim=128),
        "32b": AttentionShape(layers=64, heads=40, kv_heads=8, head_dim=128),
    }
    teacher = load_config(ModelArgs(str(qwen / "32b")))
    for size in ("3b", "7b"):
        check_pair(load_config(ModelArgs(str(qwen / size))), teacher, {"a": 1}, {"a": 1}, ["laid"])


def test_every_word_of_a_haystack_is_one_token():
    tokenizer = load_processor(ProcessorArgs()).tokenizer
    for text in corpus():
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    question = "For the image with a dog, is there an umbrella?"
    assert len(tokenizer(question)["input_ids"]) == 12
    strange = "Überraschung 猫 ?!"
    assert tokenizer.decode(tokenizer(strange)["input_ids"]) == strange


@pytest.mark.parametrize("name", LAYERS)
def test_the_packaged_tokenizers_are_those_of_the_code(tmp_path, name):
    processor = packaged_processor()
    write_tiny(tmp_path, packaged_config(name, processor), processor)
    packaged = Path(resolve_model(f"tiny/{name}"))
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / file).read_text() == (packaged / file).read_text(), file
