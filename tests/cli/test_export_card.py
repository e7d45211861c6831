"""What an export tells others: its model card, and what of it is pushed to the hub."""

import ast
import contextlib
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import transformers
import yaml
from huggingface_hub import metadata_load

from laid.checkpoints.runs import find_checkpoint
from laid.cli.export_command import export
from laid.evaluation.results import read_results
from laid.sharing.export_card import render, results_of
from laid.vlm.export_marker import MARKER, check_export


@pytest.fixture(scope="module")
def tested(laid, own_run):
    laid("test", "--ckpt_path", own_run)
    return own_run


@pytest.fixture(scope="module")
def exported_once(tested, work, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "out"
    with contextlib.chdir(work):
        export(str(tested), str(out))
    return out


@pytest.fixture
def exported(exported_once, tmp_path):
    """The export of a tested checkpoint, in a folder of the test's own."""
    return shutil.copytree(exported_once, tmp_path / "out")


def card(folder):
    return (folder / "README.md").read_text()


def test_the_results_of_this_checkpoint_are_in_its_card(tested, exported):
    results = read_results(tested / "results.json")
    for size, cell in results.by_size.items():
        low, high = (f"{100 * bound:.1f}".replace("100.0", "100") for bound in cell.interval)
        row = f"| {size} | {100 * cell.accuracy:.1f} | {low}–{high} | {cell.n} |"
        assert row.replace("| 0.0–", "| 0–") in card(exported).replace("| 0.0–", "| 0–")
    assert "Tested before the export, in precision 32-true" in card(exported)
    assert (exported / "accuracy_by_size.png").read_bytes()[:4] == b"\x89PNG"


def test_those_of_another_checkpoint_or_a_window_extension_are_not(
    tested, work, tmp_path, monkeypatch
):
    monkeypatch.chdir(work)
    export(str(tested / "checkpoints" / "step=1.ckpt"), str(tmp_path / "out"))
    assert "has not been tested" in card(tmp_path / "out")
    assert not (tmp_path / "out" / "accuracy_by_size.png").exists()


def test_results_beside_the_run_are_taken_if_they_are_of_this_model(tested, work, monkeypatch):
    monkeypatch.chdir(work)
    content = json.loads((tested / "results.json").read_text())
    identity = content["identity"]
    beside = {
        "tests/vhs": content | {"name": "vhs"},
        "tests/sources/my": content | {"scoring": "exact"},
        "small-yarn": content | {"identity": identity | {"window": {"extension": "yarn"}}},
        "small-2": content | {"identity": identity | {"checkpoint": {"id": "another"}}},
        "broken": {},
    }
    for name, of in beside.items():
        (tested.parent / name).mkdir(parents=True)
        (tested.parent / name / "results.json").write_text(json.dumps(of))
    try:
        found = results_of(find_checkpoint(str(tested), Path("runs")))
    finally:
        for name in beside:
            shutil.rmtree(tested.parent / Path(name).parts[0], ignore_errors=True)
    assert [results.name for results in found] == [
        content["name"],
        f"{content['name']}, my (exact)",
        "vhs",
    ]


def test_it_says_how_it_was_trained_and_nothing_that_is_not_known(tested, exported, pair):
    text = card(exported)
    settings = yaml.safe_load((tested / "config.yaml").read_text())
    assert f"| steps | 12 of {settings['data']['global_batch_size']} haystacks |" in text
    assert f"student_lr {settings['model']['optimizer']['student_lr']}" in text
    assert "seeds | training" in text
    # The base is a local folder: no model of the hub is named, and no folder of this machine.
    metadata = metadata_load(exported / "README.md")
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "image-text-to-text"
    assert not {"base_model", "datasets", "license"} & metadata.keys()
    assert "License\n\nnot stated" in text
    assert str(pair[0].parent) not in text


def test_training_data_is_named_as_others_find_it(tested, tmp_path, monkeypatch):
    found = find_checkpoint(str(tested), Path("runs"))
    mine = tmp_path / "secret" / "mine.jsonl"
    mixture = {"built": 0.7, "hf:me/haystacks:train": 0.2, str(mine): 0.1}
    data = found.config["data"] | {"train": found.config["data"]["train"] | {"mixture": mixture}}
    text = render(replace(found, config=found.config | {"data": data}), [], "Model", "bfloat16")
    assert "datasets:\n- me/haystacks\n" in text
    assert "0.7 of 12 haystacks of 2 to 3 images, built from `train2017`" in text
    assert "0.1 of `mine.jsonl` (local)" in text
    assert "secret" not in text


def test_response_gains_are_part_of_what_was_trained(tested):
    found = find_checkpoint(str(tested), Path("runs"))
    model = found.config["model"] | {"rope_gain": {"layers": "all"}}
    text = render(replace(found, config=found.config | {"model": model}), [], "Model", "bfloat16")
    assert "| trained weights | decoder, and RoPE response gains, folded into them |" in text
    assert "gain_lr 0.001" in text


def test_a_license_is_that_of_the_base_models_own_card(tested, work, tmp_path, pair, monkeypatch):
    monkeypatch.chdir(work)
    of_base = pair[0] / "README.md"
    of_base.write_text("---\nlicense: other\nlicense_name: own-terms\n---\n# Base\n")
    try:
        export(str(tested), str(tmp_path / "out"))
    finally:
        of_base.unlink()
    metadata = metadata_load(tmp_path / "out" / "README.md")
    assert (metadata["license"], metadata["license_name"]) == ("other", "own-terms")


def test_its_example_is_python_that_transformers_has(exported):
    (code,) = re.findall(r"```python\n(.*?)```", card(exported), re.S)
    imported = {
        name.name
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module == "transformers"
        for name in node.names
    }
    assert imported == {"AutoProcessor", "Qwen2_5_VLForConditionalGeneration"}
    assert all(hasattr(transformers, name) for name in imported)


def test_whoever_may_read_its_configuration_may_read_its_weights(exported):
    modes = {(exported / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1


def test_generation_is_greedy_without_a_penalty(exported):
    config = transformers.GenerationConfig.from_pretrained(exported)
    assert config.do_sample is False
    assert config.repetition_penalty == 1.0
    assert config.temperature is config.top_p is config.top_k is None
    assert config.eos_token_id is not None


def test_a_completed_card_is_no_damage(exported):
    with (exported / "README.md").open("a") as file:
        file.write("More about it.\n")
    check_export(exported)


def test_a_dry_run_lists_every_file_with_its_size(exported, run):
    code, err = run("export", "--out", exported, "--push_to", "me/model", "--dry_run", "true")
    assert code == 0
    assert "nothing was sent" in err


def test_what_goes_up_is_the_export_and_not_its_marker(exported, capsys):
    export(out=str(exported), push_to="me/model", dry_run=True)
    listed = dict(re.findall(r"^(\S+) +([\d,]+)$", capsys.readouterr().out, re.M))
    files = {path.name: f"{path.stat().st_size:,}" for path in exported.iterdir()}
    del files[MARKER]
    assert listed == files


@pytest.mark.parametrize("damage", ["a changed byte", "a missing file", "no marker"])
def test_a_damaged_or_partial_export_is_never_pushed(exported, damage):
    weights = exported / "model.safetensors"
    check_export(exported)  # its checksums are in the cache now
    if damage == "a changed byte":
        stat, content = weights.stat(), bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif damage == "a missing file":
        weights.unlink()
    else:
        (exported / MARKER).unlink()
    with pytest.raises(ValueError, match=r"is damaged|is not an export of laid"):
        export(out=str(exported), push_to="me/model", dry_run=True)


def test_a_hub_that_cannot_be_reached_is_one_line(exported, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="cannot push to me/model"):
        export(out=str(exported), push_to="me/model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to do"),
        ({"ckpt_path": "last", "dry_run": True}, "give that too"),
        ({"push_to": "no slash"}, "expected USER/NAME"),
        ({"push_to": "model"}, "expected USER/NAME"),
        ({"push_to": "me/model", "overwrite": True}, "--ckpt_path"),
    ],
)
def test_options_that_do_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        export(**options)
