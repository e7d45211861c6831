"""With kept features, in Python: what is learned of images holds for one stage."""

import lightning as L
import pytest
import torch
from PIL import Image

from laid.data.datamodule import HaystackDataModule
from laid.data.entry_args import PredictArgs
from laid.training.module import LaidModule
from laid.vlm.model_loading import ModelArgs


class Seen(L.Callback):
    """What a model takes of the image that a question is about."""

    def on_predict_batch_end(self, trainer, module, outputs, batch, *at):
        (features,) = module.student.features.of(batch.inputs.image_names)
        self.tokens_VE = features.tokens_VE


@pytest.fixture
def seen(tmp_path):
    """A function of (model, data, colour): what is taken of 1.png, which has that colour, in a
    folder of its own."""

    def run(model, data, colour):
        (tmp_path / colour).mkdir(exist_ok=True)
        Image.new("RGB", (56, 56), colour).save(tmp_path / colour / "1.png")
        data.predict_args = PredictArgs(images=str(tmp_path / colour), question="Is there a cat?")
        callback = Seen()
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = L.Trainer(accelerator="cpu", callbacks=[callback], **quiet)
        trainer.predict(model, datamodule=data, return_predictions=False)
        return callback.tokens_VE

    return run


def test_another_folder_with_the_same_file_names_is_looked_at(pair, drawn, seen):
    def model():
        return LaidModule(student=ModelArgs(str(pair[0])))

    def data():
        return HaystackDataModule(str(drawn), str(pair[0]), cache_features=True, workers=0)

    first, second, images, more = model(), model(), data(), data()
    of_red = seen(first, images, "red")
    of_blue = seen(first, images, "blue")
    assert not torch.equal(of_red, of_blue)
    assert torch.equal(of_blue, seen(second, more, "blue"))
    # A model that has not seen them, and data that has been shown.
    assert torch.equal(of_red, seen(second, images, "red"))
