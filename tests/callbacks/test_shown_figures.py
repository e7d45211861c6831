"""Figures of a run: in its folder, and in each logger that takes images."""

import matplotlib.image
import pytest
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from laid.callbacks.shown_figures import show_figure


class WithImages(CSVLogger):
    """Keeps what Lightning's loggers of images are given, by the arguments of ``WandbLogger``."""

    def log_image(self, key, images, step=None):
        self.shown = key, images, step


def test_every_logger_that_takes_images_gets_a_figure(tmp_path):
    board, plain = TensorBoardLogger(tmp_path, version=""), CSVLogger(tmp_path / "plain")
    other = WithImages(tmp_path / "other")
    trainer = Trainer(logger=[board, plain, other], default_root_dir=tmp_path, accelerator="cpu")
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    show_figure(trainer, figure, tmp_path / "run", "head_flow", "test/")
    assert matplotlib.image.imread(tmp_path / "run" / "figures" / "head_flow.png").std() > 0
    board.experiment.flush()
    events = EventAccumulator(board.log_dir).Reload()
    assert events.Tags()["images"] == ["test/head_flow"]
    key, (image,), step = other.shown
    assert (key, step) == ("test/head_flow", 0)
    assert image.size > (100, 100)
    assert max(high for _, high in image.getextrema()) == 255


@pytest.mark.slow  # starts a service of its own
def test_weights_and_biases_keeps_a_figure_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    wandb = WandbLogger(project="laid", save_dir=tmp_path, offline=True)
    trainer = Trainer(logger=[wandb], default_root_dir=tmp_path, accelerator="cpu")
    show_figure(trainer, Figure(), tmp_path / "run", "head_flow", "test/")
    wandb.experiment.finish()
    assert (
        len(list(tmp_path.glob("wandb/offline-run-*/files/media/images/test/head_flow*.png"))) == 1
    )
