"""``laid cache``, and fits without the teacher: what they compute, and what they refuse."""

import shutil

import pytest
import yaml
from huggingface_hub import constants
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from laid.cli.main import main
from laid.common.atomic_files import only_writer

KL = ("--model.objective.laid.weight", 0, "--head_flow.enabled", "false", "--data.workers", 0)
TERMS = ("retrieval", "kl", "sft")


def losses(folder):
    """Every logged loss and gradient norm by step."""
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    board.Reload()
    tags = [tag for tag in board.Tags()["scalars"] if tag.startswith(("train/", "grad_norm/"))]
    assert {f"train/{term}" for term in TERMS} <= set(tags)
    return {tag: {e.step: e.value for e in board.Scalars(tag)} for tag in tags}


def late_of(whole):
    """The losses from step 2 on."""
    return {tag: {s: v for s, v in values.items() if s >= 2} for tag, values in whole.items()}


def resumed_at_2(run, work, *words):
    """The losses of the run "online", of two epochs of three steps, taken up by another in its
    first."""
    folder = work / "runs" / "resumed"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(work / "runs" / "online" / "checkpoints" / "step=2.ckpt", folder / "checkpoints")
    fit(run, "--ckpt_path", folder, *words)
    return losses(folder)


@pytest.fixture(params=["all terms", "retrieval"])
def with_terms(request, config, work, pair):
    """A configuration with every term that has a teacher, with an alignment of drawn tokens, or
    with terms that need the question's queries alone; and that teacher in a folder of its own."""
    teacher = shutil.copytree(pair[1], work / "moved-teacher", dirs_exist_ok=True)
    content = yaml.safe_load(config.read_text())
    content["model"]["teacher"]["path"] = str(teacher)
    aligned = {"weight": 1.0, "layers": "matched", "calibration": 2}
    laid = {"drawn tokens": aligned | {"tokens": "sample:9"}, "retrieval": {"weight": 0.0}}
    content["model"]["objective"] = {
        "laid": laid.get(request.param, aligned),
        "retrieval": {**aligned, "layers": "all"},
        "kl": {"weight": 1.0},
    }
    kept = False if request.param == "drawn tokens" else str(work / "features")
    content["data"] |= {"workers": 0, "cache_features": kept}
    content["data"]["train"]["entries"] = 6
    content["trainer"]["limit_val_batches"] = 0
    content["checkpoint"]["every_n_train_steps"] = 2
    content["head_flow"]["enabled"] = False
    path = work / f"{request.param}.yaml"
    path.write_text(yaml.safe_dump(content))
    for name in ("used", *(f"runs/{n}" for n in ("online", "cached", "resumed", "without"))):
        shutil.rmtree(work / name, ignore_errors=True)
    return path, teacher


def fit(run, *words):
    """Fits in this process."""
    code, said = run("fit", *words)
    assert code == 0, said


def test_a_fit_from_a_cache_has_the_losses_of_a_fit_with_the_teacher(with_terms, run, work):
    """To the last bit, also where a run with the teacher is taken up in mid-epoch without it; with
    neither the teacher nor the place where the cache was made."""
    config, teacher = with_terms
    fit(run, "--config", config, "--name", "online")
    code, said = run("cache", "--config", config, "--out", "made")
    assert code == 0, said
    assert "6 entries of about" in said
    assert "made is complete" in said
    (work / "made").rename(work / "used")
    shutil.rmtree(teacher)
    cached = ("--model.teacher_source", "cache:used")
    fit(run, "--config", config, *cached, "--name", "cached", "--data.workers", 1)
    whole = losses(work / "runs" / "online")
    assert losses(work / "runs" / "cached") == whole

    assert resumed_at_2(run, work, *cached) == late_of(whole)


@pytest.mark.parametrize("with_terms", ["drawn tokens"], indirect=True)
def test_a_fit_fills_a_cache_and_needs_no_teacher_when_it_is_full(with_terms, run, work):
    """With the losses of the teacher alone, also where it ends in mid-epoch and is taken up."""
    config, teacher = with_terms
    fit(run, "--config", config, "--name", "online")
    whole, filling = losses(work / "runs/online"), ("--model.teacher_source", "online+cache:used")
    assert resumed_at_2(run, work, *filling) == late_of(whole)
    shards = sorted((work / "used" / "shards").iterdir())
    assert len(shards) == 6
    for shard in shards[::2]:
        shutil.rmtree(shard)
    fit(run, "--config", config, *filling, "--name", "cached")
    assert losses(work / "runs" / "cached") == whole
    shutil.rmtree(teacher)
    fit(run, "--config", config, *filling, "--name", "without", "--trainer.max_steps", 1)
    shutil.rmtree(shards[0])
    code, said = run("fit", "--config", config, *filling, "--name", "refused")
    assert code == 2
    assert "no model folder" in said


@pytest.fixture(scope="module")
def cache(config, work):
    """A cache for the KL term alone."""
    folder = work / "kl-cache"
    words = ("--config", config, *KL, "--out", folder)
    main(["cache", *map(str, words), "--trainer.enable_progress_bar", "false"])
    return folder


REFUSED = {
    "another prefix": (("--data.prefix", "Look: "), "prefix: the cache 'You are given"),
    "other pixels": (("--data.max_pixels", 2000), "processor.image_processor.max_pixels: the cac"),
    "other entries": (("--data.seed", 1), "entries.content: the cache "),
    "fewer entries": (("--data.train.entries", 10), "entries.count: the cache 12, this run 10"),
    "another dtype": (("--model.teacher.dtype", "bfloat16"), "teacher.dtype: the cache 'float32'"),
    "another precision": (
        ("--trainer.precision", "bf16-mixed"),
        "teacher.autocast: the cache None",
    ),
    "another teacher": (("--model.teacher.path", "tiny/teacher"), "teacher.weights: the cache "),
    "a teacher that is not here, of another name": (
        ("--model.teacher.path", "some/teacher"),
        "teacher.path: the cache ",
    ),
    "more terms": (
        ("--model.objective.laid.weight", 1),
        "lacks teacher layers [2]: it holds none",
    ),
    "other numbers": (
        ("--model.teacher_stored_as", "int8"),
        "model.teacher_stored_as: the cache 'teacher', this run 'int8'",
    ),
    "numbers of no cache": (
        ("--model.teacher_stored_as", "int8", "--model.teacher_source", "online"),
        "name a cache",
    ),
    "no source": (("--model.teacher_source", "elsewhere"), "expected online, cache:FOLDER of"),
    "a cache on the hub to fill": (
        ("--model.teacher_source", "online+cache:hf://me/signals"),
        "expected online, cache:FOLDER of",
    ),
    "no cache": (("--model.teacher_source", "cache:runs"), "it has no cache.json"),
    "a folder of something else to fill": (
        ("--model.teacher_source", "online+cache:runs"),
        "is not empty and no cache",
    ),
}


@pytest.mark.parametrize(("words", "expected"), REFUSED.values(), ids=REFUSED)
def test_a_cache_of_something_else_is_refused(cache, config, run, work, words, expected):
    """Naming what differs, and leaving no run."""
    before = sorted(work.glob("runs/*"))
    options = ("--config", config, *KL, "--model.teacher_source", f"cache:{cache}", *words)
    code, said = run("fit", *options, "--name", "refused")
    assert code == 2
    assert expected in said
    assert sorted(work.glob("runs/*")) == before


@pytest.mark.parametrize("with_terms", ["all terms"], indirect=True)
def test_a_fit_from_a_cache_in_int8_has_nearly_the_losses(with_terms, run, work):
    config, _ = with_terms
    stored = ("--model.teacher_stored_as", "int8")
    assert run("cache", "--config", config, *stored, "--out", "used")[0] == 0
    one = ("--config", config, "--trainer.max_steps", 1)
    fit(run, *one, "--name", "online")
    fit(run, *one, *stored, "--model.teacher_source", "cache:used", "--name", "cached")
    exact, found = (losses(work / "runs" / name) for name in ("online", "cached"))
    for term in ("laid", "retrieval"):
        tag = f"train/{term}"
        assert found[tag] != exact[tag]
        assert found[tag][0] == pytest.approx(exact[tag][0], rel=0.01)
    assert found["train/kl"] == exact["train/kl"]


@pytest.mark.parametrize(
    "limit", [("limit_predict_batches", 3), ("limit_predict_batches", 0), ("fast_dev_run", True)]
)
def test_limits_with_which_a_cache_would_never_be_complete_are_refused(config, run, limit):
    name, value = limit
    code, said = run("cache", "--config", config, *KL, "--out", "x", f"--trainer.{name}={value}")
    assert code == 2
    assert f"--trainer.{name} {value}: laid cache stores all entries" in said


def test_a_cache_that_is_not_complete_is_not_said_to_be(config, run, work):
    words = ("cache", "--config", config, *KL, "--out", "held")
    (work / "held" / "shards").mkdir(parents=True)
    with only_writer(work / "held" / "shards" / "00000"):
        code, said = run(*words)
    assert code == 2
    assert "held lacks 12 entries, some of which another process was writing: run the" in said
    assert run(*words)[0] == 0


def test_a_cache_may_be_on_the_hub_and_the_teacher_need_not_be_named(
    cache, config, run, work, monkeypatch
):
    home, commit = work / "hub" / "datasets--me--signals", "0" * 40
    shutil.copytree(cache, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(work / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    options = ("--config", config, *KL, "--model.teacher_source", "cache:hf://me/signals")
    fit(run, *options, "--model.teacher", "null", "--trainer.max_steps", 1, "--name", "unnamed")


def test_a_cache_is_added_to_by_the_same_settings_only(cache, config, run, work):
    code, said = run("cache", "--config", config, *KL, "--out", cache, "--data.prefix", "Look: ")
    assert code == 2
    assert "prefix: the cache 'You are given" in said
    code, said = run("cache", "--config", config, "--out", cache)
    assert code == 2
    assert "layers: the cache (), now (2,)" in said
    shutil.rmtree(cache / "shards" / "00000")
    code, said = run("fit", "--config", config, *KL, "--model.teacher_source", f"cache:{cache}")
    assert code == 2
    assert "the first shards/00000 (missing)" in said
    filling = ("--model.teacher_source", f"online+cache:{cache}")
    code, said = run("fit", "--config", config, *KL, *filling, "--name", "refused")
    assert code == 2
    assert "a run fills one whose shards have one entry; these have 64" in said
    code, said = run("cache", "--config", config, *KL, "--model.teacher_source", f"cache:{cache}")
    assert code == 0
    assert "is complete" in said


def test_an_objective_without_a_teacher_has_nothing_to_store(config, run):
    none = ("--model.objective.laid.weight", 0, "--model.objective.kl.weight", 0)
    code, said = run("cache", "--config", config, *none, "--out", "nothing")
    assert code == 2
    assert "the objective has no term with a teacher" in said
    code, said = run("cache", "--config", config)
    assert code == 2
    assert "--out is missing" in said
    for name in ("hf://me/signals", "cache:made", ""):
        code, said = run("cache", "--config", config, f"--out={name}")
        assert code == 2
        assert f"--out {name!r}: expected a folder on this machine" in said


@pytest.mark.slow
@pytest.mark.parametrize("with_terms", ["all terms"], indirect=True)
def test_two_ranks_make_a_cache_and_train_from_it_as_with_the_teacher(with_terms, laid, work):
    """Sharded teacher and student."""
    config, _ = with_terms
    two = ("--trainer.devices", 2, "--trainer.strategy", "laid_fsdp", "--trainer.max_steps", 3)
    options = ("--config", config, *two)
    laid("fit", *options, "--name", "two-online")
    assert "two is complete" in laid("cache", *options, "--out", "two").err
    laid("fit", *options, "--name", "two-cached", "--model.teacher_source", "cache:two")
    filling = ("--model.teacher_source", "online+cache:two-filled")
    laid("fit", *options, "--name", "two-filled", *filling)
    for name in ("two-cached", "two-filled"):
        assert losses(work / "runs" / name) == losses(work / "runs" / "two-online")
