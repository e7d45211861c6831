"""Model folders that are damaged or made to do harm: a sentence, soon, and nothing read outside."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from laid.common.errors import UserError
from laid.vlm.model_loading import ModelArgs, empty_model, load_config, load_model, materialise
from laid.vlm.processor import ProcessorArgs, load_processor
from laid.vlm.weight_files import all_rows

DEEP = "[" * 100_000
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(pair, tmp_path):
    return shutil.copytree(pair[0], tmp_path / "model")


@pytest.mark.parametrize("content", [DEEP, '{"a":' * 100_000, "[]", "3", "{", "null", ""])
@pytest.mark.parametrize(
    "name",
    ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", INDEX],
)
def test_a_broken_file_ends_in_a_sentence(folder, name, content):
    (folder / name).write_text(content)
    try:
        load_config(ModelArgs(str(folder)))
        load_processor(ProcessorArgs(str(folder)))
        load_model(ModelArgs(str(folder)))
    except UserError as reason:
        said = str(reason)
    else:  # transformers does without
        said = str(folder) if name in ("preprocessor_config.json", "tokenizer_config.json") else ""
    assert str(folder) in said
    assert len(said) < 2000


def load_in_shards(args):
    materialise(empty_model(args), args, "cpu", all_rows)


@pytest.mark.parametrize(
    "weight_map",
    [
        None, {}, [], 3, {"lm_head.weight": 3}, {"lm_head.weight": "gone.safetensors"},
        {"lm_head.weight": "../outside.safetensors"}, {"lm_head.weight": "/etc/passwd"},
        {"lm_head.weight": ".."}, {"lm_head.weight": "a\\..\\b"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("load", [load_model, load_in_shards])
def test_an_index_names_files_of_its_folder_only(folder, weight_map, load):
    outside = folder.parent / "outside.safetensors"
    save_file(load_file(folder / "model.safetensors"), outside, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError, match=INDEX):
        load(ModelArgs(str(folder)))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "does not end within",
        ),
        ("{{ 'x' * 10**11 }}", "MemoryError"),
        ("{{ 'x' * 10**7 }}", "it renders 10000000 characters"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ raise_exception('no') }}", "TemplateError: no"),
        ("hello", "expected one that gives every image its"),
    ],
)
def test_a_chat_template_that_is_no_use_is_refused(folder, template, message):
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match=message):
        load_processor(ProcessorArgs(str(folder)))
