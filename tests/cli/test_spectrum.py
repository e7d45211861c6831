"""``laid spectrum``: a report on several models, and the callback that follows a run."""

import csv
import json
import shutil

import matplotlib.image
import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from laid.common.json_codec import from_json
from laid.inspection.named_models import named_models
from laid.spectrum.spectrum_report import SpectrumReport


def small(drawn, out):
    return "--coco_root", drawn, "--sizes", 1, 3, "--per_size", 2, "--device", "cpu", "--out", out


def test_a_report_on_a_base_a_run_and_its_teacher(laid, fitted, pair, drawn, work):
    out = work / "spectrum"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    (out / "spectrum.json").write_text("an earlier report")
    models = f"base={pair[0]}", f"run={fitted}", f"teacher={pair[1]}"
    done = laid("spectrum", "--models", *models, *small(drawn, out))
    report = from_json(SpectrumReport, json.loads((out / "spectrum.json").read_text()))
    assert (out / "mine.txt").read_text() == "kept"
    assert [model.name for model in report.models] == ["base", "run", "teacher"]
    assert report.base == "base"
    assert report.haystacks == {1: 2, 3: 2}
    base, run, teacher = report.models
    assert base.less_base is None
    assert teacher.less_base.keys() == {"usage", "variance"}
    assert len(teacher.usage) == 3 != len(base.usage)
    for model in report.models:
        for heads in model.usage:
            for pairs in heads:
                assert sum(pairs) == pytest.approx(1, abs=1e-4)
    # Training has changed the run's weights, and its report with them.
    assert run.usage != base.usage
    for name, share in run.shares["usage"].items():
        less = share.value - base.shares["usage"][name].value
        assert run.less_base["usage"][name].value == pytest.approx(less, abs=2e-6)
    assert [(m.model, m.student_layer, m.teacher_layer) for m in report.mixed] == [("run", 1, 2)]
    assert 0 < report.mixed[0].overlap <= 1
    assert len(report.mixed[0].mixed) == len(report.mixed[0].student) == 4
    assert "run − base" in done.out
    with (out / "spectrum.csv").open() as file:
        rows = list(csv.DictReader(file))
    pairs = len(base.section)
    assert len(rows) == (2 * 4 + 2 * 4 + 3 * 6) * pairs
    last = rows[-1]
    assert (last["model"], last["layer"], last["head"]) == ("teacher", "2", "5")
    assert float(last["usage"]) == pytest.approx(teacher.usage[2][5][-1])
    for figure in ("usage", "low_frequency", "mixed_1_run"):
        assert matplotlib.image.imread(out / f"{figure}.png").std() > 0


def test_without_its_teacher_a_run_is_measured_and_its_mixtures_are_left_out(
    run, fitted, pair, drawn, tmp_path
):
    away = pair[1].rename(pair[1].with_name("away"))
    try:
        code, error = run("spectrum", "--models", f"a={fitted}", *small(drawn, tmp_path / "out"))
    finally:
        away.rename(pair[1])
    assert code == 0
    assert "a: mixtures of teacher heads are left out: no model folder" in error
    report = from_json(SpectrumReport, json.loads((tmp_path / "out" / "spectrum.json").read_text()))
    assert report.mixed == []
    assert len(report.notes) == 1


def test_a_run_is_the_model_that_it_exports(run, fitted, tmp_path):
    code, _ = run("export", "--ckpt_path", fitted, "--out", tmp_path / "exported")
    assert code == 0
    models = named_models([f"run={fitted}", f"exported={tmp_path / 'exported'}"], None)
    one, other = (model.load(torch.device("cpu")).state_dict() for model in models)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (["tiny/student"], "'tiny/student': expected NAME=WHAT"),
        (["=tiny/student"], "expected NAME=WHAT"),
        (["a="], "expected NAME=WHAT"),
        (["a=tiny/student", "a=tiny/teacher"], "two models a"),
        (["a=tiny/nobody"], "no packaged model 'tiny/nobody'"),
        (["a=./nowhere"], "no model folder"),
        (["a=nowhere.ckpt"], "no such file"),
        (["a=."], "no config.json"),
    ],
)
def test_a_model_that_is_none_is_refused(run, tmp_path, models, words):
    code, error = run("spectrum", "--models", *models, "--out", tmp_path / "out")
    assert code == 2
    assert words in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--base", "b"], "--base b: expected a name of --models: a"),
        (["--low_wavelength", 0], "--low_wavelength 0.0"),
        (["--low_wavelength", ".inf"], "--low_wavelength inf: expected a finite number"),
        (["--per_size", 0], "per_size 0"),
        (["--split", "train2017", "--source", "x.json"], "--split"),
        (["--image_root", "x"], "--image_root is of the images that --source names"),
        (["--device", "abacus"], "--device abacus"),
        (["--device", "meta"], "--device meta"),
        (["--device", ""], "--device : "),
        (["--split", ""], "instances_.json"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(run, drawn, tmp_path, monkeypatch, options, words):
    monkeypatch.setattr("laid.minicoco.drawing.ensure_minicoco", lambda: drawn)
    code, error = run("spectrum", "--models", "a=tiny/student", "--out", tmp_path / "out", *options)
    assert code == 2
    assert words in error
    assert not (tmp_path / "out").exists()


def conversation(*images):
    question = "<image>" * len(images) + "What is there?"
    turns = {"user": question, "assistant": "A dog."}
    return {
        "messages": [{"role": role, "content": text} for role, text in turns.items()],
        "images": list(images),
    }


def test_entries_without_images_are_left_out(run, pair, drawn, tmp_path):
    """A spectrum is of the rows after the last image."""
    shown = [path.name for path in sorted((drawn / "val2017").glob("*"))[:2]]
    bare, seen = tmp_path / "bare.jsonl", tmp_path / "seen.jsonl"
    bare.write_text(json.dumps(conversation()) + "\n")
    seen.write_text("".join(json.dumps(conversation(*x)) + "\n" for x in ([], shown, shown[:1])))
    command = "spectrum", "--models", f"a={pair[0]}", "--device", "cpu", "--out", tmp_path / "out"
    code, error = run(*command, "--source", bare)
    assert code == 2
    assert f"none of the 1 entries of {bare} has an image" in error
    code, error = run(*command, "--source", seen)
    assert code == 2
    assert "Names are relative to" in error  # the images are elsewhere
    code, error = run(*command, "--source", seen, "--image_root", drawn / "val2017")
    assert code == 0, error
    assert "left out: 1 of 3 entries, which have no image" in error
    report = json.loads((tmp_path / "out" / "spectrum.json").read_text())
    assert report["haystacks"] == {"1": 1, "2": 1}


def test_a_model_that_overflows_in_its_dtype_is_refused(run, pair, drawn, tmp_path):
    """Its weights are finite in float16, and what its first layer makes of them is not."""
    folder = shutil.copytree(pair[0], tmp_path / "large")
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    (name,) = (name for name in weights if name.endswith("layers.0.mlp.up_proj.weight"))
    save_file(weights | {name: torch.full_like(weights[name], 6e4)}, file, {"format": "pt"})
    command = "spectrum", "--models", f"a={folder}", *small(drawn, tmp_path / "out")
    code, error = run(*command, "--dtype", "float16")
    assert code == 2
    assert "--models a: in float16 the attention of its layers [1] is not finite" in error
    assert not (tmp_path / "out").exists()


def test_a_run_logs_the_spectrum_of_its_student_after_each_validation(run, config, work):
    code, error = run(
        "fit", "--config", config, "--name", "spectral", "--head_flow.enabled", "false",
        "--trainer.max_steps", 2, "--trainer.limit_val_batches", 1, "--data.workers", 0,
        "--trainer.val_check_interval", 2, "--checkpoint.every_n_train_steps", 2,
        "--spectrum.enabled", "true", "--spectrum.sizes", "[1, 2]", "--spectrum.per_size", 2,
    )  # fmt: skip
    assert code == 0, error
    folder = work / "runs" / "spectral"
    board = EventAccumulator(str(folder))
    board.Reload()
    first, second = board.Scalars("spectrum/low_usage/all")
    assert 0 < first.value < 1
    assert second.value != first.value  # one optimizer step later
    assert "spectrum" in board.Tags()["images"]
    assert matplotlib.image.imread(folder / "figures" / "spectrum.png").std() > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--spectrum.sizes", "[]"], "spectrum.sizes is empty"),
        (["--spectrum.sizes", "[2, 0]"], "spectrum.sizes [2, 0]: expected 1 image or more"),
        (["--trainer.limit_val_batches", 0], "trainer.limit_val_batches 0: the spectrum is"),
        (["--head_flow.sizes", "[1, 0]"], "head_flow.sizes [1, 0]: expected haystack sizes of 1"),
    ],
)
def test_a_measurement_of_nothing_is_refused(run, config, options, words):
    code, error = run("fit", "--config", config, "--spectrum.enabled", "true", *options)
    assert code == 2
    assert words in error
