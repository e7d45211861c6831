"""Training that diverges, and weights that are no numbers: it stops, and good weights stay."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from campaign.case import Case, assert_clean, error_of, refusal
from campaign.scenarios import checkpoints
from campaign.world import Place
from safetensors.torch import load_file, save_file

from laid.checkpoints.sharded_checkpoints import read_whole

KIND = "no finite numbers"

DIVERGING: tuple[tuple[str, dict[str, Any]], ...] = (
    ("a learning rate of 1e30", {"model.optimizer.student_lr": 1e30}),
    ("a learning rate of 1e6", {"model.optimizer.student_lr": 1e6}),
    ("mixing weights at 1e38", {"model.optimizer.mixing_lr": 1e38}),
    ("a term of weight 1e38", {"model.objective.kl.weight": 1e38}),
    ("a term of weight 1e38, without clipping",
     {"model.objective.sft.weight": 1e38, "trainer.gradient_clip_val": None}),
    ("a learning rate of 1e30, sharded",
     {"model.optimizer.student_lr": 1e30, "trainer.strategy": "laid_fsdp", "trainer.devices": 1}),
    ("a learning rate of 1e30, kept every other step",
     {"model.optimizer.student_lr": 1e30, "checkpoint.every_n_train_steps": 2,
      "checkpoint.save_top_k": 1}),
)  # fmt: skip
BAD = {"NaN": float("nan"), "infinity": float("inf"), "minus infinity": float("-inf")}


def finite(path: Path) -> bool:
    """Whether all weights of a checkpoint are numbers."""
    state = read_whole(path)["state_dict"]
    return all(bool(value.isfinite().all()) for value in state.values())


def _diverges(changes: dict[str, Any]) -> Callable[[Place], None]:
    """It stops, with the step and what is not finite; what is kept is finite."""

    def check(place: Place) -> None:
        config = place.config({"trainer.max_epochs": 4, **changes})
        done = place.laid("fit", "--config", config)
        assert done.code == 2, str(done)
        assert_clean(place, done)
        error = error_of(done)
        assert "step" in error
        assert any(word in error for word in ("NaN", "nan", "inf", "finite"))
        for path in checkpoints(place):
            assert finite(path), path.name

    return check


def _broken_teacher(value: float) -> Callable[[Place], None]:
    """A teacher that gives no numbers: nothing that was trained before is lost."""

    def check(place: Place) -> None:
        teacher = place.copy(place.world.teacher, "teacher")
        config = place.config({"model.teacher.path": str(teacher), "checkpoint.save_top_k": 1})
        assert place.laid("fit", "--config", config, "--trainer.max_steps", 2).code == 0
        _poison(teacher / "model.safetensors", value)
        done = place.laid("fit", "--ckpt_path", "runs/run", "--trainer.max_steps", 6)
        assert done.code == 2, str(done)
        assert_clean(place, done)
        assert error_of(done)
        (kept,) = checkpoints(place)
        assert kept.name == "step=2.ckpt"
        assert finite(kept)

    return check


def _poison(path: Path, value: float) -> None:
    state = load_file(path)
    name = sorted(state)[len(state) // 2]
    state[name].view(-1)[3] = value
    save_file(state, path, {"format": "pt"})


def _checkpoint_of(value: float) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        content = torch.load(place.world.run / "checkpoints" / "step=4.ckpt", weights_only=True)
        name = sorted(content["state_dict"])[7]
        content["state_dict"][name].view(-1)[0] = value
        path = place.folder / "step=4.ckpt"
        torch.save(content, path)
        return path

    return make


def _used_by(command: str, value: float) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        path = _checkpoint_of(value)(place)
        more: list[object] = []
        if command == "predict":
            more = ["--data.predict.source", place.world.questions, "--results", "out"]
        if command == "test":
            more = ["--results", "out"]
        if command == "export":
            more = ["--out", "out"]
        if command == "fit":
            more = ["--trainer.max_steps", 6]
        return [command, "--ckpt_path", path, *more]

    return prepare


def _base(value: float) -> Callable[[Place], list[object]]:
    """Weights from elsewhere."""

    def prepare(place: Place) -> list[object]:
        student = place.copy(place.world.student, "student")
        _poison(student / "model.safetensors", value)
        config = place.config({"model.student.path": str(student)})
        return ["test", "--config", config, "--results", "out"]

    return prepare


WORDS = "NaN|infinit|finite"
CASES: list[Case] = [
    *(
        Case(KIND, what, _diverges(changes), sample=what == "a learning rate of 1e30")
        for what, changes in DIVERGING
    ),
    *(Case(KIND, f"a teacher with {what}", _broken_teacher(value)) for what, value in BAD.items()),
    *(
        refusal(
            KIND, f"{command} of a checkpoint with {what}", _used_by(command, value), WORDS,
        )
        for command in ("test", "validate", "predict", "export", "fit")
        for what, value in BAD.items()
    ),
    *(
        refusal(KIND, f"test of a model with {what}", _base(value), WORDS)
        for what, value in BAD.items()
    ),
]  # fmt: skip
