"""TRL's trainers on the same pair, haystack and answer, KL and cross-entropy as each has them."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import fixture
from transformers import TrainerCallback

from laid.data.prompt import PREFIX
from laid.vlm.vision_language_model import VLM


class _Clock(TrainerCallback):
    """Seconds from the end of a step to the end of the next, input included."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.process_time())


def _answer_of(inputs: dict[str, Any]) -> list[int]:
    """The ids that a trainer's loss is of."""
    ids, kept = "completion_ids", inputs.get("completion_mask")
    if kept is None:
        ids, kept = "labels", inputs["labels"] >= 0
    return list(map(int, inputs[ids][0][kept[0].bool()]))


def trl_trainer(folder: Path, images: int, name: str) -> Callable[[int], list[float]]:
    """Runs a trainer for some steps after its first; its seconds.

    ``DistillationTrainer`` trains on what the student generates; here its generation is replaced by
    the given answer. ``GOLDTrainer`` takes given answers (lmbda 0).
    """
    models = {}
    for role in fixture.LAYERS:
        models[role] = VLM.load(fixture.model(folder, role)).hf
    data = fixture.dataset(folder, [images])
    processor = data.encoder.processor.stock
    question = PREFIX + data.entries[0]["question"]
    labels_L = fixture.read(data).labels_BL[0]
    answer = labels_L[labels_L >= 0].tolist()
    shown = [str(folder / fixture.name(number)) for number in range(images)]
    user = {"role": "user", "content": question}

    def rows(count: int) -> datasets.Dataset:
        row: dict[str, Any] = {"prompt": [user], "images": shown}
        if name == "GOLDTrainer":
            row["completion"] = [{"role": "assistant", "content": "Yes"}]
        made = datasets.Dataset.from_list([row] * count)
        return made.cast_column("images", datasets.List(datasets.Image()))

    def measure(count: int) -> list[float]:
        clock = _Clock()
        common: dict[str, Any] = {
            "output_dir": tempfile.mkdtemp(), "max_steps": count + 1, "use_cpu": True,
            "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1,
            "save_strategy": "no", "report_to": "none", "bf16": False, "disable_tqdm": True,
            "activation_checkpointing": False, "learning_rate": 1e-5,
        }  # fmt: skip
        given: dict[str, Any] = {
            "model": models["student"], "teacher_model": models["teacher"],
            "train_dataset": rows(count + 1), "processing_class": processor, "callbacks": [clock],
        }  # fmt: skip
        if name == "GOLDTrainer":
            from trl.experimental.gold import GOLDConfig, GOLDTrainer

            trainer = GOLDTrainer(
                args=GOLDConfig(lmbda=0.0, beta=0.0, max_length=None, **common), **given
            )
        else:
            from trl import DistillationConfig, DistillationTrainer

            class Given(DistillationTrainer):
                def _generate_single_turn(self, prompt_ids: Any, *_: Any, **__: Any) -> Any:
                    return [answer for _ in prompt_ids]

            trainer = Given(args=DistillationConfig(**common), **given)
        inner, trained = trainer.compute_loss, []

        def compute_loss(model: Any, inputs: dict[str, Any], *more: Any, **how: Any) -> Any:
            trained.append(_answer_of(inputs))
            return inner(model, inputs, *more, **how)

        trainer.compute_loss = compute_loss
        trainer.train()
        # TRL's template may have a line break after the end of the turn.
        assert [ids[: len(answer)] for ids in trained] == [answer] * (count + 1), trained
        return [end - begun for begun, end in zip(clock.ends, clock.ends[1:], strict=False)]

    return measure
