"""``laid cache``, and fits without the teacher: what they compute, and what they refuse."""

import shutil

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TERMS = ("laid", "retrieval", "kl", "sft")


def losses(folder):
    """Every logged loss and gradient norm by step."""
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    board.Reload()
    tags = [tag for tag in board.Tags()["scalars"] if tag.startswith(("train/", "grad_norm/"))]
    assert {f"train/{term}" for term in TERMS} <= set(tags)
    return {tag: {e.step: e.value for e in board.Scalars(tag)} for tag in tags}


@pytest.fixture
def all_terms(config, work, pair):
    """A configuration with every term that has a teacher, and that teacher in a folder of its
    own."""
    teacher = shutil.copytree(pair[1], work / "moved-teacher", dirs_exist_ok=True)
    content = yaml.safe_load(config.read_text())
    content["model"]["teacher"]["path"] = str(teacher)
    content["model"]["objective"] = {
        "laid": {"weight": 1.0, "layers": "matched", "calibration": 2},
        "retrieval": {"weight": 1.0, "layers": "final", "calibration": 2},
        "kl": {"weight": 1.0},
    }
    content["data"]["workers"] = 0
    content["checkpoint"]["every_n_train_steps"] = 2
    content["head_flow"]["enabled"] = False
    path = work / "all_terms.yaml"
    path.write_text(yaml.safe_dump(content))
    return path, teacher


def fit(run, *words):
    """Fits in this process."""
    code, said = run("fit", *words)
    assert code == 0, said


def test_a_fit_from_a_cache_has_the_losses_of_a_fit_with_the_teacher(all_terms, run, work):
    """To the last bit, also where a run with the teacher is taken up in mid-epoch without it; with
    neither the teacher nor the place where the cache was made."""
    config, teacher = all_terms
    fit(run, "--config", config, "--name", "online")
    code, said = run("cache", "--config", config, "--out", "made")
    assert code == 0, said
    assert "12 entries of about" in said
    assert "made is complete" in said
    (work / "made").rename(work / "used")
    shutil.rmtree(teacher)
    cached = ("--model.teacher_source", "cache:used")
    fit(run, "--config", config, *cached, "--name", "cached")
    whole = losses(work / "runs" / "online")
    assert losses(work / "runs" / "cached") == whole

    folder = work / "runs" / "resumed"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(work / "runs" / "online" / "checkpoints" / "step=4.ckpt", folder / "checkpoints")
    fit(run, "--ckpt_path", folder, *cached)
    late = {tag: {s: v for s, v in values.items() if s >= 4} for tag, values in whole.items()}
    assert losses(folder) == late
