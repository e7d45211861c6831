"""``LaidModule``: a frozen teacher, a student that is trained, and the objective."""

from typing import Any

import lightning as L
import torch
from lightning import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor

from laid.callbacks.global_batch import GlobalBatch
from laid.callbacks.throughput import Throughput
from laid.checkpoints.module_state import OBJECTIVE, check_fits, drop, held, without_frozen
from laid.common.errors import UserError
from laid.data.prompt import Batch
from laid.distributed.process_group import kept_for_setup, raised_on_all
from laid.distributed.sharded_tensors import full_tensor
from laid.distributed.stop_request import StopRequest
from laid.evaluation.records import Record
from laid.evaluation.scoring import Answer
from laid.losses.term import ModelPair
from laid.signals.teacher_source import TeacherSource
from laid.teacher_cache.stored_numbers import StoredAs
from laid.training.finite_guard import check_finite
from laid.training.image_learning import learn_images
from laid.training.objective import Objective, ObjectiveArgs
from laid.training.optimizer import OptimizerArgs, build_optimizer, build_schedule, set_rates
from laid.training.placement import Placement
from laid.training.sharded_strategy import check_precision, placement_of
from laid.training.teacher_choice import ONLINE, TeacherChoice
from laid.training.validation_tally import ValidationTally
from laid.vlm.lora import LoraArgs, check_base
from laid.vlm.model_loading import ModelArgs
from laid.vlm.model_paths import model_folder
from laid.vlm.processor import load_tokenizer
from laid.vlm.rope_gain import RopeGainArgs
from laid.vlm.vision_language_model import VLM
from laid.vlm.window_extension import (
    TRAINING_FREE,
    Extension,
    SelfExtendArgs,
    YarnArgs,
    chosen_extension,
)


class LaidModule(L.LightningModule):
    """Distils a long window from a teacher into a student, and lets the student answer.

    Validation, test and prediction run the student alone; no teacher is built for them.
    """

    _tokenizer_of = staticmethod(load_tokenizer)
    _choice = TeacherChoice
    student: VLM  # since ``configure_model``
    objective: Objective  # since ``configure_model``, for training only

    def __init__(
        self,
        student: ModelArgs,
        teacher: ModelArgs | None = None,
        teacher_source: str = ONLINE,
        teacher_stored_as: StoredAs = "teacher",
        lora: LoraArgs | None = None,
        rope_gain: RopeGainArgs | None = None,
        objective: ObjectiveArgs | None = None,
        optimizer: OptimizerArgs | None = None,
        max_new_tokens: int = 16,
        window_extension: Extension = "none",
        yarn: YarnArgs | None = None,
        self_extend: SelfExtendArgs | None = None,
    ):
        """
        Args:
            student: The model that is trained and tested.
            teacher: The frozen model whose window is handed on; not needed to test.
            teacher_source: online; cache:FOLDER, that laid cache made, or cache:hf://USER/NAME; or
                online+cache:FOLDER: online for entries that it lacks, which are stored there.
            teacher_stored_as: Numbers of the cache: the teacher's own, bfloat16, or int8.
            lora: Train low-rank adapters of the student rather than its weights.
            rope_gain: Train a gain on each head and rotary pair of the student's queries.
            objective: Weights and settings of the loss terms.
            optimizer: AdamW, its learning rates and their schedule.
            max_new_tokens: Longest answer in tokens, in validation, test and prediction.
            window_extension: Lengthens the student's window without training; not for fit.
            yarn: Settings of the window extension yarn.
            self_extend: Settings of the window extension self-extend.
        """
        super().__init__()
        if max_new_tokens < 1:
            raise UserError(f"model.max_new_tokens {max_new_tokens}: expected at least 1")
        self.student_args = student
        self.teacher_args = teacher
        self.chosen_teacher = self._choice(teacher, teacher_source, teacher_stored_as)
        self.lora_args = lora
        self.gain_args = rope_gain
        self.strict_loading = lora is None  # adapters come without the frozen weights
        self.objective_args = objective or ObjectiveArgs()
        self.optimizer_args = optimizer or OptimizerArgs()
        self.max_new_tokens = max_new_tokens
        self.extension = chosen_extension(window_extension, yarn, self_extend)
        self.teacher: TeacherSource | None = None
        self._seen: list[dict[str, Tensor]] = []
        self._asked: list[str] = []

    @kept_for_setup
    def prepare_data(self) -> None:
        """Brings models from the hub to this machine; Lightning asks one process of each node."""
        if not self.student_args.random_weights:
            model_folder(self.student_args.path, self.student_args.revision)
        if self.trainer.state.fn == "fit" and self.objective_args.of_teacher:
            self.chosen_teacher.fetch()

    @raised_on_all
    def setup(self, stage: str) -> None:
        """Refuses an objective that its training entries say nothing to."""
        if stage == "fit":
            entries = self.trainer.datamodule.train_entries
            self.objective_args.check_entries(entries["size"], entries["needles"])

    def configure_model(self) -> None:
        """Builds the student, and for training the teacher and the objective."""
        training = self.trainer.state.fn == "fit" and not hasattr(self, "objective")
        first = not hasattr(self, "student")
        if training and self.extension:
            raise UserError(TRAINING_FREE)
        if first:
            check_precision(self.trainer)
            self.tokenizer = self._tokenizer_of(self.student_args)
        if training and (of_teacher := self.objective_args.of_teacher):
            check = self.chosen_teacher.check
            check(self.student_args, self._tokenizer_of, of_teacher, self.trainer)
        placement = placement_of(self.trainer)
        if first:
            added = self.lora_args, self.extension, self.gain_args
            self.student = placement.student(self.student_args, *added)
        if training:
            self._build_for_training(placement)

    def configure_callbacks(self) -> list[Callback]:
        """Stops on signals; and to train, accumulation as the data says, and speed."""
        fit = self.trainer.state.fn == "fit"
        return [StopRequest(), *([GlobalBatch(), Throughput()] if fit else [])]

    def _build_for_training(self, placement: Placement) -> None:
        # Lightning keeps the mode it finds; activation checkpointing works in train mode only.
        self.student.train()
        theirs = self.chosen_teacher.shape if self.objective_args.of_teacher else None
        own = self.student.shape, theirs, len(self.tokenizer), self.student.rotate
        # The teacher is built after the objective, which says what is asked of it.
        models = ModelPair(*own, lambda *x, **how: self.teacher.rotate(*x, **how))  # type: ignore[union-attr]
        self.objective = placement.objective(Objective(self.objective_args, models))
        if self.student_args.compile:
            self.student.compile_layers(left_out=self.objective.of_student.layers)
        if wanted := self.objective.ever_of_teacher:
            self.teacher = self.chosen_teacher.source(placement, wanted)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW in the paper's two groups; the schedule counts optimizer steps."""
        fused = not isinstance(self.trainer.precision_plugin, MixedPrecision)
        optimizer = build_optimizer(self.student, self.objective, self.optimizer_args, fused)
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise UserError(
                "the schedule needs the number of steps: set trainer.max_epochs or max_steps"
            )
        self._steps = int(steps)
        schedule = build_schedule(optimizer, self.optimizer_args, self._steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        if self.teacher is not None:
            self.teacher.to(self.device)
        self._learn_images()
        if self.teacher is not None:
            if (ahead := self.teacher.ahead) is not None:
                self.trainer.datamodule.ahead.append(ahead)
            models = self.student.signals, self.teacher.signals
            self.objective.calibrate(*models, self.trainer.datamodule, self.device)

    def on_validation_start(self) -> None:
        if self.trainer.state.fn == "validate":
            self._learn_images()

    def on_test_start(self) -> None:
        self._learn_images()

    on_predict_start = on_test_start

    def _learn_images(self) -> None:
        teachers = [self.teacher.vision] if self.teacher and self.teacher.vision else []
        learn_images(
            [self.student, *teachers], self.trainer.datamodule, self.trainer.state.fn.value
        )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.objective.advance(self.trainer.global_step, self._steps)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The objective of one batch; its terms are logged once an optimizer step."""
        teacher = self.teacher and self.teacher.signals(batch.inputs, self.objective.of_teacher)
        student = self.student.signals(batch.inputs, self.objective.of_student)
        loss, terms = self.objective(student, teacher, batch.inputs)
        self._asked += [entry.id for entry in batch.entries]
        terms["loss"] = loss
        self._seen.append({name: batch.weight * x.detach() for name, x in terms.items()})
        return batch.weight * loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Logs the terms of the step (unweighted and weighted), the learning rates, and the
        gradient norm of both groups before clipping.

        Raises:
            UserError: a term or a norm is not finite.
        """
        (seen, asked), self._seen, self._asked = (self._seen, self._asked), [], []
        means = {name: torch.stack([one[name] for one in seen]).mean() for name in seen[0]}
        weighted = {
            f"train/{name}_weighted": weight * means[name]
            for name, weight in self.objective.weights.items()
        }
        logged = {f"train/{name}": value for name, value in means.items()}
        self.log_dict({**logged, **weighted}, batch_size=1, sync_dist=True)
        self.log("loss", means["loss"], prog_bar=True, logger=False, batch_size=1)
        for group in optimizer.param_groups:
            self.log(f"lr/{group['name']}", group["lr"], batch_size=1)
        finite = dict(logged)
        for name, module in (("student", self.student), ("mixing", self.objective)):
            if grads := [p.grad for p in module.parameters() if p.grad is not None]:
                norm = full_tensor(torch.nn.utils.get_total_norm(grads))
                self.log(f"grad_norm/{name}", norm, batch_size=1)
                # With float16 a gradient that overflows skips the step, and the scale is lowered.
                if getattr(self.trainer.precision_plugin, "scaler", None) is None:
                    finite[f"grad_norm/{name}"] = norm
        check_finite(finite, self.trainer.global_step + 1, asked)

    def on_validation_epoch_start(self) -> None:
        self._tally = ValidationTally(self.trainer.datamodule.validate_entries, self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._tally.add(self.scored(batch), batch)

    def on_validation_epoch_end(self) -> None:
        """Logs accuracy over all entries, by haystack size, and of several sources by each."""
        counts_K2 = self.trainer.strategy.reduce(self._tally.counts_K2, reduce_op="sum")
        for name, accuracy in self._tally.accuracies(counts_K2).items():
            self.log(name, accuracy, prog_bar=name == "val/accuracy")

    def test_step(self, batch: Batch, batch_idx: int) -> list[Record]:
        """Greedy answers, scored; the ``TestRecorder`` callback writes them down."""
        return self.scored(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Answer]:
        """Greedy answers; the ``PredictionWriter`` callback writes them down."""
        return self.answer(batch)

    def answer(self, batch: Batch) -> list[Answer]:
        ids_BT = self.student.answer(batch.inputs, self.max_new_tokens)
        texts = self.tokenizer.batch_decode(ids_BT, skip_special_tokens=True)
        ended_B = self.student.ended(ids_BT).tolist()
        return [Answer(text.strip(), not end) for text, end in zip(texts, ended_B, strict=True)]

    def scored(self, batch: Batch) -> list[Record]:
        """One record a haystack of the batch."""
        tokens_B = batch.inputs.attention_mask_BL.sum(-1).tolist()
        found = zip(batch.entries, self.answer(batch), tokens_B, strict=True)
        return [Record.of(entry, answer, tokens) for entry, answer, tokens in found]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """With LoRA, leaves the frozen weights out, and says whose they are."""
        if self.lora_args is not None:
            checkpoint["base"] = self.student.base
            checkpoint["state_dict"] = without_frozen(self, checkpoint["state_dict"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves out the objective where only the student is wanted, and checks the rest.

        Raises:
            UserError: it is of a model of another shape, or of adapters to other weights.
        """
        # A sharded module has read its share already, and checked that it fits.
        if (state := checkpoint.get("state_dict")) is not None:
            if not hasattr(self, "objective"):
                drop(state, OBJECTIVE)
            check_fits(held(self, self.state_dict()), state)
        check_base(self.student.base, checkpoint.get("base"))

    def on_train_start(self) -> None:
        """What was typed for a resumed run holds for its optimizer too."""
        self.objective.restored()  # a sharded run is restored after ``on_fit_start``
        set_rates(self.optimizers().optimizer, self.lr_schedulers(), self.optimizer_args)
