"""laid's own commands with models of every family."""

import math
import shutil

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from laid.cli.main import main
from laid.vlm.families.gemma3 import Gemma3

TERMS = ("laid", "retrieval", "kl", "sft")


@pytest.fixture
def settings(models, drawn, family):
    """Of a run of two steps that has every loss term."""
    return [
        f"--model.student.path={models[0]}",
        f"--model.teacher.path={models[1]}",
        *(f"--model.objective.{term}.weight=1" for term in TERMS),
        "--model.objective.laid.layers=all",
        # Of Gemma 3's, those that see the whole haystack.
        f"--model.objective.retrieval.layers={'[[1,2]]' if family is Gemma3 else 'all'}",
        "--model.objective.retrieval.calibration=2",
        "--model.optimizer.student_lr=1e-3",
        "--model.max_new_tokens=3",
        f"--data.coco_root={drawn}",
        "--data.train.entries=4",
        "--data.train.min_size=2",
        "--data.train.max_size=3",
        "--data.validate.sizes=[2]",
        "--data.validate.per_size=2",
        "--data.test.split=test2017",
        "--data.test.sizes=[1,2]",
        "--data.test.per_size=2",
        "--data.batch_size=2",
        "--data.global_batch_size=2",
        "--data.workers=0",
        "--data.cache_features=true",
        "--trainer.accelerator=cpu",
        "--trainer.max_steps=2",
        "--trainer.log_every_n_steps=1",
        "--checkpoint.every_n_train_steps=1",
        "--checkpoint.save_top_k=-1",
        "--trainer.enable_progress_bar=false",
        "--head_flow.sizes=[1]",
        "--head_flow.per_size=2",
    ]


def scalars(folder):
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    board.Reload()
    return {tag: [event.value for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_a_student_is_trained_by_its_teacher_and_answers(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["fit", *settings, "--name=run"])
    main(["test", *settings, "--ckpt_path=runs/run", "--results=results"])
    losses = scalars(tmp_path / "runs" / "run")
    for term in ("loss", *TERMS):
        values = losses[f"train/{term}"]
        assert len(values) == 2
        assert all(math.isfinite(value) and value > 0 for value in values), term
    norms = [value for tag in losses if tag.startswith("grad_norm/") for value in losses[tag]]
    assert len(norms) >= 4  # of student and mixing weights
    assert all(norm > 0 for norm in norms)
    assert (tmp_path / "runs" / "run" / "figures" / "head_flow.png").exists()
    lines = (tmp_path / "results" / "records.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 4


@pytest.mark.slow
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["fit", *settings, "--name=whole"])
    shutil.copytree("runs/whole", "runs/stopped")
    shutil.rmtree("runs/stopped/figures", ignore_errors=True)
    for path in (tmp_path / "runs" / "stopped").glob("events*"):
        path.unlink()
    (tmp_path / "runs" / "stopped" / "checkpoints" / "step=2.ckpt").unlink()
    main(["fit", "--ckpt_path=runs/stopped"])
    whole, resumed = (scalars(tmp_path / "runs" / name) for name in ("whole", "stopped"))
    for term in ("loss", *TERMS):
        assert resumed[f"train/{term}"] == whole[f"train/{term}"][1:]


@pytest.mark.slow
def test_a_cached_teacher_teaches_what_the_model_does(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["fit", *settings, "--name=online"])
    main(["cache", *settings, "--out=cache"])
    main(["fit", *settings, "--name=cached", "--model.teacher_source=cache:cache"])
    online, cached = (scalars(tmp_path / "runs" / name) for name in ("online", "cached"))
    for term in ("loss", *TERMS):
        assert cached[f"train/{term}"] == pytest.approx(online[f"train/{term}"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
def test_two_ranks_train_what_one_process_does_and_the_export_is_one_of_plain_transformers(
    settings, vlm, batch, laid, work, lora
):
    exported = []
    for ranks in (1, 2):
        name = f"{vlm.family.model_type}-{lora}-{ranks}"
        more = [
            "--data.cache_features=false",
            "--model.objective.retrieval.weight=0",  # looks for images in the whole batch
            # Where a gradient is all rounding, Adam's step is the rate times noise.
            "--model.optimizer.student_lr=1e-4",
            "--model.optimizer.mixing_lr=1e-4",
            *(["--model.lora.rank=4"] if lora else []),
            *(["--trainer.strategy=laid_fsdp", "--trainer.devices=2"] if ranks == 2 else []),
            f"--data.batch_size={2 // ranks}",
        ]
        laid("fit", *settings, *more, f"--name={name}")
        laid("export", f"--ckpt_path=runs/{name}", f"--out={name}")
        exported.append(vlm.family.model_class.from_pretrained(work / name))
    inputs = batch()
    arguments = {**vlm.family.arguments(inputs), "pixel_values": inputs.pixel_values_PC}
    with torch.no_grad():
        one, two, untrained = (model(**arguments).logits for model in (*exported, vlm.hf))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-4)
    assert (one - untrained).abs().max() > 1e-3
