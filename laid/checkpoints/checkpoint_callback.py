"""Checkpoints that know their run."""

import logging
import uuid
from pathlib import Path
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from laid.checkpoints.runs import EMBEDDED, FORMAT, next_fit
from laid.checkpoints.saved_state import count_from_data, not_finite
from laid.common.atomic_files import atomic_write_text
from laid.common.errors import UserError
from laid.common.stopping import Stopped
from laid.distributed.process_group import on_rank_zero, world_size

log = logging.getLogger(__name__)


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint``, with these additions.

    - Each checkpoint carries the run's settings, so that the run can be tested and resumed from it
      alone, and an identity of its own.
    - The last state is always kept, with ``monitor`` beside the best ones: at the end of training,
      when the process is asked to stop, and with one process when anything fails.
    - Each is the state after an optimizer step: inside one there are gradients that no checkpoint
      holds, so a run that ends there is resumed after the step before. None is written of weights
      that are not finite.
    """

    config: str = ""
    """The run's settings as YAML; the command line sets it."""
    _defer_save_until_validation: bool

    def __init__(self, mode: Literal["min", "max"] | None = None, **options: Any):
        """
        Args:
            mode: whether the smallest or the largest values of ``monitor`` are the best. None: max
                for an accuracy, else min.
            **options: as Lightning's; ``save_on_exception`` or not, the last state is saved.

        Raises:
            UserError: they contradict each other, or would keep nothing or write elsewhere.
        """
        monitor, filename = options.get("monitor"), options.get("filename")
        fitting = "max" if monitor is not None and "accuracy" in monitor else "min"
        if mode is not None and monitor is not None and mode != fitting:
            raise UserError(
                f"checkpoint.mode {mode} would keep the worst checkpoints by {monitor}: expected "
                f"{fitting}, or leave it out"
            )
        if options.get("save_top_k") == 0:
            raise UserError(
                "checkpoint.save_top_k 0 would keep no checkpoint: expected -1 (all) or a number "
                "from 1 on (with checkpoint.monitor the best, without it 1: the newest)"
            )
        if filename is not None and set(filename) & set("/\\"):
            raise UserError(
                f"checkpoint.filename {filename!r}: expected the name of a file in the run's "
                "checkpoints, such as {step}"
            )
        if options.get("save_weights_only"):
            raise UserError(
                "checkpoint.save_weights_only: such a checkpoint can't be resumed; to keep the "
                "weights alone, use `laid export`"
            )
        super().__init__(mode=mode or fitting, **options)
        self._fit = 0
        self._begun_at = 0
        self._checked = self._training = self._written = False
        self._validated_at: int | None = None
        self._newest = ""
        """With ``monitor``, the checkpoint of the last state."""
        self._after_step: dict[str, Any] = {}
        """Of a checkpoint, what counts batches, as it was just after the last optimizer step."""
        self._unsavable = False

    def begin_after(self, step: int) -> None:
        """Says that a run is resumed after this step, whose checkpoint exists."""
        self._last_global_step_saved = self._begun_at = step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and self.dirpath:
            self._fit = on_rank_zero(lambda: next_fit(Path(str(self.dirpath))))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint.update(self._after_step)
        if (data := trainer.datamodule) is not None:
            count_from_data(checkpoint, checkpoint.get(type(data).__qualname__, {}))
        identity = {"step": trainer.global_step, "fit": self._fit, "id": uuid.uuid4().hex}
        checkpoint[EMBEDDED] = {"format": FORMAT, "config": self.config, "identity": identity}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the scores of checkpoints that are in our folder, wherever it was before.

        The paths are another's word: taken as they are, they could name any file for removal.
        """
        here = Path(str(self.dirpath))
        last = here / Path(str(state_dict["last_model_path"])).name
        self.last_model_path = str(last) if last.is_file() else ""
        scores = {
            str(here / Path(str(path)).name): score
            for path, score in state_dict["best_k_models"].items()
            if (here / Path(str(path)).name).exists()
        }
        self.best_k_models = scores
        if scores:
            worst, best = (max, min) if self.mode == "min" else (min, max)
            self.kth_best_model_path = worst(scores, key=lambda path: scores[path])
            self.kth_value = scores[self.kth_best_model_path]
            self.best_model_path = best(scores, key=lambda path: scores[path])
            self.best_model_score = scores[self.best_model_path]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._training, self._unsavable = True, False
        if trainer.ckpt_path is not None and self.dirpath:
            resumed = Path(self.dirpath) / Path(trainer.ckpt_path).name
            # In the place of the newest: the next one takes that, and this is pruned.
            if resumed.exists() and str(resumed) not in self.best_k_models:
                if self.monitor is None:
                    self.best_model_path = str(resumed)
                else:
                    self._newest = str(resumed)
        if self._of_validation and not trainer.enable_validation:
            raise UserError(
                f"checkpoint.monitor {self.monitor}: there is no validation (trainer."
                "limit_val_batches 0), so it has no values"
            )

    @property
    def _of_validation(self) -> bool:
        return self.monitor is not None and self.monitor.startswith("val/")

    def _check_monitor(self, trainer: Trainer) -> None:
        """Refuses a ``monitor`` of no metric.

        Raises:
            UserError: it is not among those that were logged.
        """
        self._checked = True
        known = self._monitor_candidates(trainer)
        if self.monitor is not None and self.monitor not in known:
            self._unsavable = True  # of a refused run nothing is kept
            raise UserError(
                f"checkpoint.monitor {self.monitor}: there is no such metric; there are "
                f"{', '.join(sorted(known))}"
            )

    def _monitor_candidates(self, trainer: Trainer) -> dict[str, Tensor]:
        candidates = super()._monitor_candidates(trainer)
        if self._of_validation and self._validated_at != trainer.global_step:
            candidates.pop(str(self.monitor), None)  # of weights that are no more
        return candidates

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._of_validation:
            self._validated_at = trainer.global_step
            self._check_monitor(trainer)
            if self._defer_save_until_validation:
                self._defer_save_until_validation = False
                self._save(trainer)
        super().on_validation_end(trainer, pl_module)

    def on_before_optimizer_step(self, *args: Any) -> None:
        self._unsavable = True  # until the step is made

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not trainer.fit_loop.epoch_loop._accumulated_batches_reached():
            return
        self._unsavable = False
        self._after_step = {"loops": trainer._checkpoint_connector._get_loops_state_dict()}
        if (data := trainer.datamodule) is not None:
            self._after_step[type(data).__qualname__] = data.state_dict()
        if not self._checked and not self._of_validation:
            self._check_monitor(trainer)
        if not self._begun_at:
            self._write_settings(trainer)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        loop = trainer.fit_loop.epoch_loop
        last = self._is_last_step(trainer, loop.batch_progress.is_last_batch)
        if last or self._defer_save_until_validation:
            validates = loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
            self._defer_save_until_validation = self._of_validation and validates
            if not self._defer_save_until_validation:
                self._save(trainer)

    @staticmethod
    def _is_last_step(trainer: Trainer, epoch_ends: bool) -> bool:
        if 0 <= trainer.max_steps <= trainer.global_step:
            return True
        epochs = trainer.max_epochs
        return epoch_ends and epochs is not None and 0 <= epochs <= trainer.current_epoch + 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)  # where something else has stopped training
        self._training = False
        super().on_train_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses to call a fit done that has trained nothing.

        Raises:
            UserError: the run has taken no step.
        """
        if self._begun_at == trainer.global_step and not trainer.should_stop:
            raise UserError(
                f"nothing was trained: the run is at step {self._begun_at}, and trainer."
                f"max_steps {trainer.max_steps}, max_epochs {trainer.max_epochs} and "
                f"limit_train_batches {trainer.limit_train_batches} end it there. "
                "To train on, raise them; to test it, use laid test"
            )

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Lightning's, of finite weights only.

        Raises:
            UserError: a weight or an optimizer's state is NaN or infinite, on any rank.
        """
        if (name := not_finite(trainer)) is not None:
            last = self._last_checkpoint_saved
            raise UserError(
                f"after step {trainer.global_step}, {name} holds a NaN or an infinity: no "
                "checkpoint is written. "
                + (f"The last one is {last}" if last else "There is none before")
            )
        self._unsavable = True
        super()._save_checkpoint(trainer, filepath)
        self._unsavable = False
        self._write_settings(trainer)

    def _write_settings(self, trainer: Trainer) -> None:
        """Writes config.yaml, of a resumed run with its first checkpoint: a fit that is refused
        leaves the settings of the run as they are."""
        if self.config and not self._written and trainer.is_global_zero:
            if not trainer.fast_dev_run:
                atomic_write_text(Path(str(self.dirpath)).parent / "config.yaml", self.config)
            self._written = True

    def _should_remove_checkpoint(self, trainer: Trainer, previous: str, current: str) -> bool:
        # Lightning's would keep the checkpoint that the run was resumed from.
        return previous != current and Path(previous).parent == Path(str(self.dirpath))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        # One rank's error is not the others', which would wait for it in the saving.
        stopped = isinstance(exception, Stopped) and not exception.at_once
        alone = isinstance(exception, Exception) and world_size() == 1
        if not self._training or self._unsavable or not (stopped or alone):
            return
        try:
            if not_finite(trainer) is None:
                self._save(trainer)
        except Exception as reason:  # and the first error stays the one that is reported
            log.error("the state after step %d is not saved: %s", trainer.global_step, reason)

    def _save(self, trainer: Trainer) -> None:
        """Saves the state of this step, unless it is saved."""
        if not trainer.fast_dev_run and self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_topk_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        if self.monitor is None or self.monitor in monitor_candidates:
            super()._save_topk_checkpoint(trainer, monitor_candidates)
        if self.monitor is not None:
            self._save_newest(trainer)

    def _save_newest(self, trainer: Trainer) -> None:
        """With ``monitor``, saves a state that is none of the best, and removes the one before."""
        before, path = self._newest, self._last_checkpoint_saved
        if self._last_global_step_saved != trainer.global_step:
            candidates = self._monitor_candidates(trainer)
            path = self._get_metric_interpolated_filepath_name(candidates, trainer, before)
            self._save_checkpoint(trainer, path)
        self._newest = path
        kept = not before or before in self.best_k_models
        if not kept and self._should_remove_checkpoint(trainer, before, path):
            self._remove_checkpoint(trainer, before)
