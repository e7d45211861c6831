"""What a run says of itself: what is trained, on what; and at its end, how long it took."""

import logging
import time

from lightning import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)


class RunMessages(Callback):
    """Two lines before the first step, one after the last; on rank 0."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since, self._first = time.perf_counter(), trainer.global_step
        if not trainer.is_global_zero:
            return
        parameters = list(pl_module.student.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        terms = ", ".join(f"{k} {of.weight:g}" for k, of in pl_module.objective_args.chosen.items())
        named, teacher = pl_module.teacher_args, "none"
        if pl_module.objective_args.of_teacher:
            teacher = named.path if named is not None else "of the cache"
        log.info(
            "student %s, %s of %s parameters trained; teacher %s; %s",
            pl_module.student_args.path,
            _count(trained),
            _count(sum(p.numel() for p in parameters)),
            teacher,
            terms,
        )
        data = trainer.datamodule
        begun = f" from step {self._first:,}" if self._first else ""
        log.info(
            "%s entries; %s steps of %d haystacks on %d device(s)%s",
            f"{len(data.train_entries):,}",
            f"{int(trainer.estimated_stepping_batches):,}",
            data.global_batch_size,
            trainer.world_size,
            begun,
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps, seconds = trainer.global_step - self._first, time.perf_counter() - self._since
        if trainer.is_global_zero and steps > 0:
            each = f"{seconds / steps:.3g} s each"
            log.info("%s steps in %s, %s", f"{steps:,}", _duration(seconds), each)


def _count(number: int) -> str:
    """Such as 7.6 B."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _duration(seconds: float) -> str:
    """Such as 1 h 2 min 3 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((at for at, (amount, _) in enumerate(parts) if amount), 2)
    return " ".join(f"{amount} {unit}" for amount, unit in parts[first:])
