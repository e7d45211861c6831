"""Figures of a run: in its folder, and in each logger that takes images."""

import matplotlib.image
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
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
