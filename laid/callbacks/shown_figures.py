"""Figures of a run: a PNG in its folder, and an image in every logger that takes images."""

from pathlib import Path
from typing import Any

import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from laid.evaluation.accuracy_figures import save_png


def boards(trainer: Trainer) -> list[Any]:
    """TensorBoard's writers of a trainer."""
    loggers = (of for of in trainer.loggers if isinstance(of, TensorBoardLogger))
    return [logger.experiment for logger in loggers]


def show_figure(trainer: Trainer, figure: Figure, run: Path, name: str, under: str = "") -> None:
    """Writes ``figures/NAME.png`` in the run's folder, and gives it to the loggers that take
    images: TensorBoard, and those with Lightning's ``log_image`` (Weights & Biases, and others)."""
    picture = save_png(figure, run / "figures" / f"{name}.png")
    tag, step = f"{under}{name}", trainer.global_step
    for board in boards(trainer):
        board.add_image(tag, np.asarray(picture), step, dataformats="HWC")
    for logger in trainer.loggers:
        if (log_image := getattr(logger, "log_image", None)) is not None:
            log_image(key=tag, images=[picture], step=step)
