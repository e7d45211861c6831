"""``laid test``, ``predict`` and ``export`` of a finished run."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import Qwen2_5_VLForConditionalGeneration

from laid.checkpoints.runs import find_checkpoint
from laid.vlm.model_loading import ModelArgs
from laid.vlm.vision_language_model import VLM


@pytest.fixture(scope="module")
def tested(laid, own_run):
    """The run, tested, on a machine that has no teacher."""
    content = (own_run / "config.yaml").read_text()
    teacher = next(
        line.split()[-1] for line in content.splitlines() if line.strip().endswith("/teacher")
    )
    hidden = Path(teacher).with_name("hidden")
    os.rename(teacher, hidden)
    try:
        done = laid("test", "--ckpt_path", own_run)
    finally:
        os.rename(hidden, teacher)
    return done


def records(folder):
    lines = (folder / "records.jsonl").read_text().splitlines()
    return {record["id"]: record for record in map(json.loads, lines[1:])}


def test_the_run_alone_is_enough_and_the_teacher_is_not_needed(tested, own_run):
    assert "step=12.ckpt" in tested.err
    results = json.loads((own_run / "results.json").read_text())
    assert list(results["by_size"]) == ["1", "2", "4"]
    assert all(cell["n"] == 4 for cell in results["by_size"].values())
    assert results["name"] == "small"
    assert "laid test --ckpt_path" in results["command"]
    training = results["training"]
    assert (training["name"], training["seed"], training["run"]) == ("small", 0, ".")
    assert training["settings"]["data"]["global_batch_size"] == 2
    assert training["settings"]["model"]["optimizer"]["student_lr"] == 1e-3
    assert "instead of the run's" not in tested.err


def test_the_table_is_on_the_screen_and_the_figures_in_tensorboard(tested, own_run):
    assert "images" in tested.out
    assert "95%" in tested.out
    board = EventAccumulator(str(own_run))
    board.Reload()
    assert "test/accuracy_by_size" in board.Tags()["images"]
    assert [e.step for e in board.Scalars("test/accuracy_by_size")] == [1, 2, 4]
    assert (own_run / "figures" / "accuracy_by_size.png").stat().st_size > 5000


def test_a_finished_test_is_not_run_again(tested, laid, own_run):
    before = (own_run / "records.jsonl").read_bytes()
    again = laid("test", "--ckpt_path", own_run)
    assert "12 of 12 entries are answered already" in again.err
    assert "95%" in again.out
    assert f"laid: to compare it: laid compare {own_run} OTHER_RESULTS" in again.err
    assert (own_run / "records.jsonl").read_bytes() == before


def test_what_is_typed_goes_over_the_runs_settings_and_is_said(laid, own_run, work):
    done = laid(
        "test", "--ckpt_path", own_run, "--data.test.sizes", "[2]", "--model.max_new_tokens", 2,
        "--results", work / "other",
    )  # fmt: skip
    assert "laid: data.test.sizes [2] instead of the run's [1, 2, 4]" in done.err
    assert "laid: model.max_new_tokens 2 instead of the run's 3" in done.err
    assert "coco_root" not in done.err
    assert len(records(work / "other")) == 4


@pytest.mark.parametrize("batch", [1])
def test_the_batch_size_does_not_change_the_answers(tested, laid, own_run, work, batch):
    folder = work / f"batch-{batch}"
    laid("test", "--ckpt_path", own_run, "--data.eval_batch_size", batch, "--results", folder)
    assert records(folder) == records(own_run)


def test_a_killed_test_goes_on_where_it_stopped(tested, start, laid, own_run, work):
    folder = work / "killed-test"
    arguments = ("test", "--ckpt_path", own_run, "--results", folder, "--data.eval_batch_size", 1)
    process = start(*arguments)
    file = folder / "records.jsonl"
    while not file.exists() or file.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send(signal.SIGKILL, group=True)
    process.wait()
    kept = file.read_bytes()
    kept = kept[: kept.rindex(b"\n") + 1]
    with file.open("ab") as half:
        half.write(b'{"id": "test-4-0000')
    assert not (folder / "results.json").exists()
    laid(*arguments)
    assert file.read_bytes().startswith(kept)
    assert records(folder) == records(own_run)


@pytest.mark.slow
def test_another_test_in_the_same_folder_keeps_the_old_records(tested, laid, own_run, work):
    folder = work / "moved"
    shutil.copytree(own_run, folder)
    done = laid("test", "--ckpt_path", folder, "--model.max_new_tokens", 1)
    assert "max_new_tokens: 3 -> 1" in done.err
    assert len(list(folder.glob("records-*.jsonl"))) == 1


def test_a_model_that_can_not_be_loaded_leaves_the_records_alone(tested, laid, own_run, pair, work):
    folder = work / "not-moved"
    shutil.copytree(own_run, folder)
    refused = laid("test", "--ckpt_path", folder, "--model.student.path", pair[1], code=2)
    assert "does not fit the model" in refused.err
    assert (folder / "records.jsonl").read_bytes() == (own_run / "records.jsonl").read_bytes()
    assert not list(folder.glob("records-*.jsonl"))


@pytest.mark.slow
def test_entries_of_several_files_are_all_asked(laid, config, drawn, work, tmp_path):
    for seed in (1, 2):
        laid(
            "data", "build", "--coco_root", drawn, "--out", tmp_path / str(seed), "--seed", seed,
            "--train_entries", 2, "--test_per_size", 2, "--sizes", "[2]", "--max_size", 3,
        )  # fmt: skip
    sources = json.dumps([str(tmp_path / str(seed) / "test_2.json") for seed in (1, 2)])
    options = ("--data.test.source", sources, "--data.test.sizes", "null")
    laid("test", "--config", config, "--results", tmp_path / "results", *options)
    assert len(records(tmp_path / "results")) == 4


def test_without_a_checkpoint_the_base_student_is_tested(tested, laid, config, work, own_run):
    laid("test", "--config", config, "--data.test.sizes", "[1, 2]")
    results = json.loads((work / "runs" / "small-base" / "results.json").read_text())
    assert results["name"] == "base"
    assert results["identity"]["checkpoint"] is None
    base = records(work / "runs" / "small-base")
    assert base.keys() == {name for name in records(own_run) if not name.startswith("test-4")}


def test_a_window_extension_is_tested_beside_the_run(tested, laid, own_run):
    before = (own_run / "results.json").read_bytes()
    done = laid(
        "test", "--ckpt_path", own_run, "--model.window_extension", "self-extend",
        "--model.self_extend.group", 4, "--model.self_extend.window", 24,
    )  # fmt: skip
    assert "model.window_extension 'self-extend' instead of the run's 'none'" in done.err
    results = json.loads((own_run.parent / "small-self-extend" / "results.json").read_text())
    assert results["name"] == "small-self-extend"
    assert results["identity"]["window"] == {
        "extension": "self-extend", "group": 4, "window": 24, "mapping": "base",
    }  # fmt: skip
    plain = json.loads(before)
    assert "window" not in plain["identity"]
    assert results["identity"]["checkpoint"] == plain["identity"]["checkpoint"]
    assert results["identity"]["entries"] == plain["identity"]["entries"]
    assert (own_run / "results.json").read_bytes() == before


def test_compare_reports_a_run_with_its_head_flow(tested, laid, own_run, work):
    done = laid("compare", own_run, "--out", work / "report")
    assert "no head flow" not in done.err
    assert (work / "report" / "head_flow.png").stat().st_size > 5000
    assert "![Figure 4" in (work / "report" / "report.md").read_text()


def test_validate_gives_accuracy(laid, own_run):
    done = laid("validate", "--ckpt_path", own_run)
    assert "val/accuracy" in done.out


@pytest.fixture(scope="module")
def built(laid, drawn, work):
    """The test entries of the configuration, built into files."""
    laid(
        "data", "build", "--coco_root", drawn, "--out", "vhs", "--train_entries", 4,
        "--test_per_size", 4, "--sizes", "[1, 2, 4]", "--test_split", "test2017",
        "--max_size", 4,
    )  # fmt: skip
    return work / "vhs"


@pytest.mark.slow
def test_built_files_give_the_answers_of_entries_built_on_the_fly(
    tested, laid, own_run, built, work
):
    sources = json.dumps([str(built / f"test_{size}.json") for size in (1, 2, 4)])
    folder = work / "from-files"
    laid("test", "--ckpt_path", own_run, "--data.test.source", sources, "--results", folder)
    ours = {k: r["answer"] for k, r in records(own_run).items()}
    # Of several files, an id has its file before it.
    assert {k.split(":")[1]: r["answer"] for k, r in records(folder).items()} == ours


def test_predict_answers_a_file(tested, laid, own_run, built):
    laid("predict", "--ckpt_path", own_run, "--data.predict.source", built / "test_2.json")
    lines = (own_run / "predictions.jsonl").read_text().splitlines()
    answers = {line["id"]: line["answer"] for line in map(json.loads, lines)}
    assert answers == {k: r["answer"] for k, r in records(own_run).items() if r["size"] == 2}


def test_predict_answers_a_question_about_a_folder(laid, own_run, work):
    folder = work / "photographs"
    folder.mkdir(exist_ok=True)
    for name, colour in (("b.jpg", "red"), ("a.png", "blue")):
        Image.new("RGB", (90, 60), colour).save(folder / name)
    question = "For the image with a dog, is there a cat?"
    done = laid(
        "predict", "--ckpt_path", own_run, "--data.predict.images", folder,
        "--data.predict.question", question,
    )  # fmt: skip
    assert question in done.out
    line = json.loads((own_run / "predictions.jsonl").read_text())
    assert line["images"] == ["a.png", "b.jpg"]


def test_export_is_a_plain_folder_with_the_checkpoints_logits(laid, own_run, work, haystacks):
    laid("export", "--ckpt_path", own_run, "--out", "exported")
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(work / "exported").eval()
    found = find_checkpoint(str(own_run), own_run.parent)
    vlm = VLM.load(ModelArgs(**found.config["model"]["student"]))
    state = torch.load(found.path, weights_only=True)["state_dict"]
    own = {k.removeprefix("student."): v for k, v in state.items() if k.startswith("student.")}
    vlm.load_state_dict(own)
    inputs = haystacks().inputs
    arguments = {
        "input_ids": inputs.input_ids_BL,
        "attention_mask": inputs.attention_mask_BL,
        "mm_token_type_ids": inputs.mm_token_type_ids_BL,
        "pixel_values": inputs.pixel_values_PC,
        "image_grid_thw": inputs.image_grid_thw_I3,
    }
    with torch.no_grad():
        assert torch.equal(plain(**arguments).logits, vlm.hf(**arguments).logits)
    refused = laid("export", "--ckpt_path", own_run, "--out", "exported", code=2)
    assert "exists" in refused.err
