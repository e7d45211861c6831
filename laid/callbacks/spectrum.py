"""The student's spectrum in the course of training: which rotary frequencies its attention uses."""

from lightning import Callback, LightningModule, Trainer

from laid.callbacks.shown_figures import show_figure
from laid.checkpoints.runs import run_folder
from laid.common.errors import UserError
from laid.spectrum.low_frequency import check_wavelength
from laid.spectrum.spectrum_figures import usage_figure
from laid.spectrum.spectrum_measurement import SIZES, measure
from laid.spectrum.spectrum_report import summarised


class Spectrum(Callback):
    """At the end of each validation, logs the low-frequency shares of the student's attention, and
    draws its usage of rotary pairs. docs/spectrum.md has the formulas."""

    def __init__(
        self,
        enabled: bool = False,
        sizes: list[int] | None = None,
        per_size: int = 4,
        low_wavelength: float | None = None,
    ):
        """
        Args:
            enabled: Whether to do it.
            sizes: Haystack sizes to probe at. None: 2 10 20 where the validation is built, all of
                its sources that have images.
            per_size: Entries probed at each size, an even number; of the validation split.
            low_wavelength: Rotary pairs whose wavelength is longer, in positions, count as
                low-frequency. None: the length of the longest haystack probed.

        Raises:
            UserError: no sizes, one of no image, or a wavelength that is not finite and above 0.
        """
        if sizes is not None and not sizes:
            raise UserError("spectrum.sizes is empty: give sizes, or spectrum.enabled false")
        if sizes and min(sizes) < 1:
            raise UserError(
                f"spectrum.sizes {sizes}: expected 1 image or more, which the question comes after"
            )
        check_wavelength("spectrum.low_wavelength", low_wavelength)
        self.enabled = enabled
        self.sizes = sizes
        self.per_size = per_size
        self.low_wavelength = low_wavelength

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.enabled = self.enabled and stage == "fit" and not trainer.fast_dev_run
        # Here, before models are built, an impossible size fails at once.
        if self.enabled:
            if trainer.limit_val_batches == 0:
                raise UserError(
                    "spectrum.enabled true with trainer.limit_val_batches 0: the spectrum is "
                    "measured after each validation, and there would be none"
                )
            probes = trainer.datamodule.probes
            self._entries = probes("spectrum", self.sizes, self.per_size, of_built=SIZES)
            if not len(self._entries):
                raise UserError(
                    "spectrum.enabled true, and no validation entry has an image: set it false"
                )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.enabled or trainer.sanity_checking:
            return
        batches = trainer.datamodule.probe(self._entries, pl_module.device)
        context = trainer.precision_plugin.forward_context
        measured = measure(pl_module.student, batches, context)
        low = self.low_wavelength or measured.positions
        student = summarised("student", "", measured, low)
        logged = {
            f"spectrum/low_{measure}/{section}": share.value
            for measure, parts in student.shares.items()
            for section, share in parts.items()
        }
        self.log_dict(logged, sync_dist=True)
        if trainer.is_global_zero:
            figure = usage_figure([student])
            show_figure(trainer, figure, run_folder(trainer), "spectrum")
