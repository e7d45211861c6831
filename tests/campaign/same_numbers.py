"""What decides how a number is computed does not decide the number."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from campaign.case import Case, assert_clean
from campaign.scenarios import answers, checkpoints, predictions, same_state, trained
from campaign.world import Place

from laid.checkpoints.sharded_checkpoints import read_whole

KIND = "same numbers"

IDENTICAL: tuple[tuple[str, Sequence[object]], ...] = (
    ("one worker", ("--data.workers", 1)),
    ("three workers", ("--data.workers", 3)),
    ("evaluation batches of 7", ("--data.eval_batch_size", 7)),
    ("the progress bar", ("--trainer.enable_progress_bar", "true")),
    ("checkpoints of no step but the last", ("--checkpoint.every_n_train_steps", 1000)),
    ("two checkpoints kept", ("--checkpoint.save_top_k", 1)),
    ("logging every third step", ("--trainer.log_every_n_steps", 3)),
    ("validation in between", ("--trainer.limit_val_batches", 1.0)),
    ("the head flow before and after", ("--head_flow.enabled", "true", "--head_flow.per_size", 2,
                                        "--head_flow.sizes", "[1, 2]")),
    ("no logger", ("--trainer.logger", "false")),
    ("deterministic kernels", ("--trainer.deterministic", "true")),
    ("another name", ("--name", "other")),
    ("another test", ("--data.test.sizes", "[1]")),
)  # fmt: skip
"""Settings that leave a fit bit-identical."""

CLOSE: tuple[tuple[str, Sequence[object], dict[str, str]], ...] = (
    ("haystacks of a step at once", ("--data.batch_size", 2), {}),
    ("two threads", (), {"OMP_NUM_THREADS": "2"}),
    ("activation checkpointing", ("--model.student.activation_checkpointing", "true"), {}),
    ("kept features", ("--data.cache_features", "true"), {}),
    ("one sharded process", ("--trainer.strategy", "laid_fsdp", "--trainer.devices", 1), {}),
    ("eager attention", ("--model.student.attn_implementation", "eager"), {}),
)
"""Settings that leave it equal to rounding."""

OTHER: tuple[tuple[str, Sequence[object]], ...] = (
    ("another seed", ("--seed_everything", 7)),
    ("other entries", ("--data.seed", 7)),
    ("another learning rate", ("--model.optimizer.student_lr", 2e-3)),
    ("another weight of a term", ("--model.objective.kl.weight", 0.5)),
)
"""Settings that have to change it: the comparison would find a difference."""

TESTS: tuple[tuple[str, Sequence[object]], ...] = (
    ("batches of 1", ("--data.eval_batch_size", 1)),
    ("batches of 2", ("--data.eval_batch_size", 2)),
    ("batches of 8", ("--data.eval_batch_size", 8)),
    ("two workers", ("--data.workers", 2)),
    ("kept features", ("--data.cache_features", "true")),
    ("eager attention", ("--model.student.attn_implementation", "eager")),
    ("sizes the other way round", ("--data.test.sizes", "[2, 1]")),
    ("a trainer that says sharded", ("--trainer.strategy", "laid_fsdp", "--trainer.devices", 1)),
)
"""Settings that leave the answers of a test equal."""

STEPS = 4
CONSTANT = {"model.optimizer.schedule": "constant_with_warmup", "model.optimizer.warmup_ratio": 0}
"""Learning rates that do not depend on the number of all steps."""


def _baseline(place: Place) -> Any:
    """The state after four steps of the shared run."""
    content = read_whole(place.world.run / "checkpoints" / f"step={STEPS}.ckpt")
    return {key: content[key] for key in ("state_dict", "optimizer_states", "global_step")}


def _fitted(place: Place, more: Sequence[object], environment: dict[str, str]) -> Any:
    words = ["fit", "--config", place.config(), "--trainer.max_steps", STEPS, *more]
    done = place.laid(*words, environment=environment)
    assert done.code == 0, str(done)
    assert_clean(place, done)
    return trained(place, "other" if "--name" in more else "run")


def _identical(more: Sequence[object]) -> Callable[[Place], None]:
    def check(place: Place) -> None:
        assert same_state(_fitted(place, more, {}), _baseline(place))

    return check


def _close(more: Sequence[object], environment: dict[str, str]) -> Callable[[Place], None]:
    def check(place: Place) -> None:
        found, expected = (
            state["state_dict"] for state in (_fitted(place, more, environment), _baseline(place))
        )
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            # A first step of Adam moves a weight by its rate, whatever the gradient's size.
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-4, msg=name)

    return check


def _other(more: Sequence[object]) -> Callable[[Place], None]:
    def check(place: Place) -> None:
        found, expected = _fitted(place, more, {}), _baseline(place)
        assert not same_state(found["state_dict"], expected["state_dict"])

    return check


def _resumed(step: int) -> Callable[[Place], None]:
    """From every step, also one that ends an epoch."""

    def check(place: Place) -> None:
        words = ["fit", "--config", place.config(CONSTANT), "--trainer.max_steps"]
        assert place.laid(*words, step).code == 0
        done = place.laid("fit", "--ckpt_path", "runs/run", "--trainer.max_steps", 8)
        assert done.code == 0, str(done)
        whole = place.laid(*words, 8, "--name", "whole")
        assert whole.code == 0, str(whole)
        assert same_state(trained(place), trained(place, "whole"))

    return check


def _resumed_at_the_end_of_an_epoch(max_epochs: int) -> Callable[[Place], None]:
    """``max_steps`` that end an epoch, with ``max_epochs`` beside them or without."""

    def check(place: Place) -> None:
        config = place.config({**CONSTANT, "trainer.max_epochs": max_epochs})
        words = ["fit", "--config", config, "--trainer.max_steps"]
        assert place.laid(*words, 6).code == 0
        done = place.laid("fit", "--ckpt_path", "runs/run", "--trainer.max_steps", 12)
        if max_epochs == 1:
            assert done.code == 2, str(done)
            assert "nothing was trained" in done.err
            return
        assert done.code == 0, str(done)
        assert place.laid(*words, 12, "--name", "whole").code == 0
        assert checkpoints(place)[-1].name == "step=12.ckpt"
        assert same_state(trained(place), trained(place, "whole"))

    return check


def _nothing_to_train(place: Place) -> None:
    words = ["fit", "--config", place.config(), "--trainer.max_steps", 2]
    assert place.laid(*words).code == 0
    done = place.laid("fit", "--ckpt_path", "runs/run")
    assert done.code == 2, str(done)
    assert "nothing was trained" in done.err


def _branch(place: Place) -> None:
    """A run resumed from an older step: ``runs/run`` is its newest branch, not its highest step."""
    words = ["fit", "--config", place.config(), "--trainer.max_steps", 4]
    assert place.laid(*words).code == 0
    older = place.folder / "runs" / "run" / "checkpoints" / "step=1.ckpt"
    done = place.laid(
        "fit", "--ckpt_path", older, "--trainer.max_steps", 3, "--model.optimizer.student_lr", 1e-2
    )
    assert done.code == 0, str(done)
    done = place.laid("export", "--ckpt_path", "runs/run", "--out", "out")
    assert done.code == 0, str(done)
    source = json.loads((place.folder / "out" / "laid_export.json").read_text())["source"]
    content = read_whole(place.folder / source)
    assert content["global_step"] == 3
    assert content["laid"]["identity"]["fit"] == 1


def _one_kept(place: Place) -> None:
    """``save_top_k 1`` keeps one checkpoint, also after resumes."""
    config = place.config({"checkpoint.save_top_k": 1})
    assert place.laid("fit", "--config", config, "--trainer.max_steps", 1).code == 0
    for steps in (2, 3):
        done = place.laid("fit", "--ckpt_path", "runs/run", "--trainer.max_steps", steps)
        assert done.code == 0, str(done)
    assert [path.name for path in checkpoints(place)] == ["step=3.ckpt"]


def _last_beside_best(place: Place) -> None:
    """With ``monitor``, the last state is saved too."""
    monitored = {
        "checkpoint.monitor": "val/accuracy", "checkpoint.save_top_k": 1,
        "trainer.limit_val_batches": 1.0, "trainer.val_check_interval": 2,
    }  # fmt: skip
    done = place.laid("fit", "--config", place.config(monitored), "--trainer.max_steps", 4)
    assert done.code == 0, str(done)
    assert checkpoints(place)[-1].name.startswith("step=4")


def _tested(more: Sequence[object]) -> Callable[[Place], None]:
    def check(place: Place) -> None:
        run = ["test", "--ckpt_path", place.world.run, "--results", "out"]
        done = place.laid(*run, *more)
        assert done.code == 0, str(done)
        place.copy(place.world.tested, "expected")
        found, expected = answers(place)[0], answers(place, "expected")[0]
        assert {k: (r.answer, r.correct) for k, r in found.items()} == {
            k: (r.answer, r.correct) for k, r in expected.items()
        }

    return check


def _exported(place: Place) -> None:
    """The exported folder answers as the checkpoint does."""
    config = place.config({"model.student.path": str(place.world.export)})
    done = place.laid("test", "--config", config, "--results", "out")
    assert done.code == 0, str(done)
    place.copy(place.world.tested, "expected")
    found, expected = answers(place)[0], answers(place, "expected")[0]
    assert {k: r.answer for k, r in found.items()} == {k: r.answer for k, r in expected.items()}


def _predicted(place: Place) -> None:
    """``predict`` answers a file as ``test`` does."""
    source = place.world.questions
    run = ("--ckpt_path", place.world.run, "--results", "out")
    assert place.laid("predict", *run, "--data.predict.source", source).code == 0
    done = place.laid("test", *run, "--data.test.source", json.dumps([str(source)]))
    assert done.code == 0, str(done)
    recorded = {name: record.answer for name, record in answers(place)[0].items()}
    assert {line["id"]: line["answer"] for line in predictions(place)} == recorded


CASES: list[Case] = [
    *(
        Case(KIND, f"fit with {what}", _identical(more), sample=what == "one worker")
        for what, more in IDENTICAL
    ),
    *(Case(KIND, f"fit with {what}", _close(more, where)) for what, more, where in CLOSE),
    *(Case(KIND, f"fit with {what} differs", _other(more)) for what, more in OTHER),
    *(Case(KIND, f"test with {what}", _tested(more)) for what, more in TESTS),
    *(Case(KIND, f"resumed from step {step}", _resumed(step)) for step in (1, 3, 6, 7)),
    *(
        Case(
            KIND, f"max_steps at an epoch's end, max_epochs {n}", _resumed_at_the_end_of_an_epoch(n)
        )
        for n in (-1, 1, 2, 3)
    ),
    Case(KIND, "a resumed fit without a step", _nothing_to_train),
    Case(KIND, "a branch from an older step", _branch),
    Case(KIND, "save_top_k 1 after resumes", _one_kept),
    Case(KIND, "the last state beside the best", _last_beside_best),
    Case(KIND, "test of the export", _exported),
    Case(KIND, "predict of the test's questions", _predicted),
]
