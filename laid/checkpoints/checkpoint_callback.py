"""Checkpoints that know their run."""

import uuid
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from laid.checkpoints.runs import EMBEDDED, next_fit
from laid.checkpoints.sharded_checkpoints import read_whole
from laid.common.atomic_files import discard, replacing
from laid.common.errors import UserError
from laid.distributed.process_group import made_by_first
from laid.distributed.sharded_tensors import first_not_finite
from laid.distributed.stop_request import StopRequest


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there when it is whole; reads one that
    is a file and one that is a folder alike.

    Lightning's own collects it in memory first (twice its size), writes it to the system's
    temporary folder, and copies it from there: killed in the copy, half a file bears the name.
    """

    def __init__(self, with_optimizer: bool = True):
        """
        Args:
            with_optimizer: whether its state is wanted of a checkpoint; only to train on.
        """
        super().__init__()
        self.with_optimizer = with_optimizer

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        with replacing(path) as file:
            try:
                torch.save(checkpoint, file)
            except (OSError, RuntimeError) as reason:  # torch hides the first behind the second
                told = reason.__context__ or reason
                raise OSError(
                    f"cannot write the checkpoint {path}: {told}. Is the disk full?"
                ) from None

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_whole(Path(path), self.with_optimizer)

    def remove_checkpoint(self, path: Any) -> None:
        discard(path)


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint``, with three additions.

    Each checkpoint carries the run's settings, so that it can be tested and taken up again from
    the file alone, and an identity of its own. One is written at the end of training, and one when
    the process is asked to stop (SIGTERM, as a cluster sends it). All are written between
    optimizer steps: inside one there are gradients that no checkpoint holds.
    """

    config: str = ""
    """The run's settings as YAML; the command line sets it."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        if self.save_weights_only:
            raise UserError(
                "checkpoint.save_weights_only: such a checkpoint can't be taken up again; to keep "
                "the weights alone, use `laid export`"
            )
        self._stop = StopRequest()
        self._fit = 0

    def begin_after(self, step: int) -> None:
        """Says that a run is taken up after this step, whose checkpoint exists."""
        self._last_global_step_saved = step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and self.dirpath:
            self._fit = made_by_first(lambda: next_fit(Path(str(self.dirpath))))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        identity = {"step": trainer.global_step, "fit": self._fit, "id": uuid.uuid4().hex}
        checkpoint[EMBEDDED] = {"config": self.config, "identity": identity}

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop.listen(trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the scores of checkpoints that are in our folder, wherever it was before.

        The paths are another's word: taken as they are, they could name any file for removal.
        """
        here = Path(str(self.dirpath))
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
        if trainer.ckpt_path is not None and self.dirpath:
            resumed = Path(self.dirpath) / Path(trainer.ckpt_path).name
            # In the place of the newest: the next one takes that, and this is pruned.
            if self.monitor is None and resumed.exists():
                self.best_model_path = str(resumed)
        self._stop.listen(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        if trainer.state.fn == "fit":
            self._stop.agree(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._between_steps(trainer):
            self._stop.agree(trainer)
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.fast_dev_run and self._last_global_step_saved != trainer.global_step:
            self._save(trainer)
        super().on_train_end(trainer, pl_module)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Lightning's, of finite weights only.

        Raises:
            UserError: a weight or an optimizer's state is NaN or infinite, on any rank.
        """
        if (name := _not_finite(trainer)) is not None:
            last = self._last_checkpoint_saved
            raise UserError(
                f"after step {trainer.global_step}, {name} holds a NaN or an infinity: no "
                "checkpoint is written. "
                + (f"The last one is {last}" if last else "There is none before")
            )
        super()._save_checkpoint(trainer, filepath)

    def _should_remove_checkpoint(self, trainer: Trainer, previous: str, current: str) -> bool:
        # Lightning's would keep the checkpoint that the run was resumed from.
        return previous != current and Path(previous).parent == Path(str(self.dirpath))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        asked_to_stop = isinstance(exception, SIGTERMException) and trainer.state.fn == "fit"
        if (
            asked_to_stop
            and self._between_steps(trainer)
            and self._last_global_step_saved != trainer.global_step
            and _not_finite(trainer) is None
        ):
            self._save(trainer)
        if not isinstance(exception, UserError):  # the reason may be that nothing can be saved
            super().on_exception(trainer, pl_module, exception)

    @staticmethod
    def _between_steps(trainer: Trainer) -> bool:
        return bool(trainer.fit_loop.epoch_loop._accumulated_batches_reached())

    def _save(self, trainer: Trainer) -> None:
        self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


def _not_finite(trainer: Trainer) -> str | None:
    """What of a checkpoint is not finite: weights that are trained, or an optimizer's state."""
    module = trainer.lightning_module
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    names = {parameter: name for name, parameter in trained}
    states = [
        (f"the optimizer's {key} of {names.get(parameter, 'a parameter')}", value)
        for optimizer in trainer.optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    ]
    return first_not_finite([*trained, *states])
