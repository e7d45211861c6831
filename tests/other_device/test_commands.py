"""The command line on a device of another kind than the CPU: it ends, with the CPU's results."""

import json
import re
import shutil

import pytest
import yaml
from command_line.commands import Running
from training.seeded import scalars

pytestmark = pytest.mark.slow

PLACES = {
    "cpu": ("--trainer.accelerator", "cpu", "--trainer.devices", 1),
    "other": ("--trainer.accelerator", "other", "--trainer.strategy", "other"),
}
RETRIEVAL = (
    "--model.objective.retrieval.weight",
    0.3,
    "--model.objective.retrieval.calibration",
    4,
)
FITS = {
    "plain": (),
    "all": ("--model.objective.laid.layers", "all", *RETRIEVAL, "--spectrum.enabled", True),
    "packed": ("--data.pack_tokens", 300, *RETRIEVAL),
    "lora": ("--model.lora.rank", 4),
    "gain": ("--model.rope_gain.layers", "all"),
    "labels": (*RETRIEVAL, "--model.objective.retrieval.target", "label"),
    "largest": ("--model.objective.kl.top_k", 8),
    "matched": ("--model.objective.laid.layers", "matched", "--data.cache_features", False),
    "vision": ("--model.student.freeze_vision", False, "--data.cache_features", False),
    "stored": ("--data.cache_features", "features-PLACE"),
    "recomputed": ("--model.student.activation_checkpointing", "selective"),
    "filling": ("--model.teacher_source", "online+cache:filled-PLACE"),
    "int8": (
        *("--model.teacher_source", "online+cache:filled8-PLACE"),
        *("--model.teacher_stored_as", "int8"),
    ),
}


@pytest.fixture(scope="module")
def laid_on(registrable, server, work):
    """Runs ``laid ARGS`` on both devices; PLACE in a word is cpu or other."""

    def run(*words, place=PLACES):
        for name, more in place.items():
            named = [str(word).replace("PLACE", name) for word in (*words, *more)]
            other = name == "other"
            done = Running(server, named, work / "logs", work, other_device=other).wait()
            assert done.code == 0, str(done)
            if other:
                assert int(re.search(r"(\d+) operations on other", done.err)[1]) > 1000

    return run


@pytest.fixture(scope="module")
def fit(laid_on, config, work):
    """Fits for three steps, and compares what was logged."""
    content = yaml.safe_load(config.read_text())
    content["trainer"] |= {"max_steps": 3, "max_epochs": -1, "limit_val_batches": 1}
    content["data"] |= {"workers": 0}
    path = work / "device.yaml"
    path.write_text(yaml.safe_dump(content))

    def run(name, *words):
        laid_on("fit", "--config", path, "--name", f"{name}-PLACE", *words)
        return losses_of(work, name)

    return run


def losses_of(work, name):
    """What both have logged, which is the same."""
    found, expected = (scalars(work / "runs" / f"{name}-{place}") for place in ("other", "cpu"))
    assert found.keys() == expected.keys()
    assert "train/loss" in found
    for tag, values in expected.items():
        assert found[tag] == pytest.approx(values, rel=1e-3, abs=1e-5), tag
    return found


@pytest.fixture(scope="module")
def plain(fit):
    """The name of a run on each device."""
    fit("plain")
    return "runs/plain-PLACE"


@pytest.mark.parametrize("name", [name for name in FITS if name != "plain"])
def test_a_fit_logs_what_it_logs_on_the_cpu(fit, name):
    fit(name, *FITS[name])


def test_a_resumed_fit_goes_on_as_on_the_cpu(plain, laid_on, work):
    laid_on("fit", "--ckpt_path", plain, "--trainer.max_steps", 4)
    assert len(losses_of(work, "plain")["train/loss"]) == 4


def numbers(path):
    """Those of a file, rounded as JSON is not."""
    return [float(one) for one in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", path.read_text())]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


WINDOWS = {
    "none": (),
    "yarn": (
        *("--model.window_extension", "yarn", "--model.yarn.factor", 4),
        *("--model.yarn.original_length", 64),
    ),
    "self-extend": (
        *("--model.window_extension", "self-extend", "--model.self_extend.group", 4),
        *("--model.self_extend.window", 16),
    ),
}


@pytest.mark.parametrize("window", WINDOWS)
def test_answers_are_those_of_the_cpu(plain, laid_on, work, window):
    results = f"{window}-PLACE"
    laid_on("test", "--ckpt_path", plain, *WINDOWS[window], "--results", results)
    found, expected = (lines(work / f"{window}-{p}" / "records.jsonl")[1:] for p in PLACES)
    assert len(found) == 12
    assert found == expected


def test_adapters_are_tested(fit, laid_on):
    fit("adapted", *FITS["lora"])
    laid_on("test", "--ckpt_path", "runs/adapted-PLACE")


def test_validation_and_predictions_are_those_of_the_cpu(
    plain,
    laid_on,
    work,
    drawn,
    tmp_path,
):
    laid_on("validate", "--ckpt_path", plain)
    for image in sorted((drawn / "val2017").iterdir())[:2]:
        shutil.copy(image, tmp_path)
    asked = "--data.predict.images", tmp_path, "--data.predict.question", "Is there a circle?"
    laid_on("predict", "--ckpt_path", plain, *asked, "--results", "predicted-PLACE")
    found, expected = (lines(work / f"predicted-{p}" / "predictions.jsonl") for p in PLACES)
    assert found
    assert found == expected


def test_a_cache_that_was_filled_there_trains_as_one_of_the_cpu(fit, laid_on, work):
    laid_on("cache", "--config", "device.yaml", "--out", "cached-PLACE")
    fit("from-cache", "--model.teacher_source", "cache:cached-PLACE")


def test_spectrum_and_look_measure_what_they_measure_on_the_cpu(
    plain,
    laid_on,
    pair,
    drawn,
    work,
):
    devices = {place: ("--device", place) for place in PLACES}
    small = "--coco_root", drawn, "--per_size", 2
    models = f"base={pair[0]}", f"run={plain}"
    laid_on(
        "spectrum", "--models", *models, "--sizes", 1, 3, *small, "--out", "s-PLACE", place=devices
    )
    laid_on(
        "look",
        "--ckpt_path",
        plain,
        "--sizes",
        3,
        "--entry",
        1,
        *small,
        "--out",
        "l-PLACE",
        place=devices,
    )
    for folder, name in (("s", "spectrum.json"), ("l", "look.json")):
        found, expected = (numbers(work / f"{folder}-{place}" / name) for place in PLACES)
        assert found
        assert found == pytest.approx(expected, rel=1e-2, abs=1e-4)
