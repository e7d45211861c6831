"""Figures of a run: a PNG in its folder, and an image on TensorBoard."""

from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from laid.evaluation.accuracy_figures import save_png


def boards(trainer: Trainer) -> list[Any]:
    """TensorBoard's writers of a trainer."""
    loggers = (of for of in trainer.loggers if isinstance(of, TensorBoardLogger))
    return [logger.experiment for logger in loggers]


def show_figure(trainer: Trainer, figure: Figure, run: Path, name: str, under: str = "") -> None:
    """Writes ``figures/NAME.png`` in the run's folder, and shows it on TensorBoard."""
    save_png(figure, run / "figures" / f"{name}.png")
    for board in boards(trainer):
        board.add_figure(f"{under}{name}", figure, global_step=trainer.global_step, close=False)
