"""A callback for tests: something happens just after a certain batch was computed."""

from collections.abc import Callable
from typing import ClassVar

from lightning import Callback

OPTION = ("--trainer.callbacks", '[{"class_path": "cli.interruption.Interruption"}]')


class Interruption(Callback):
    """Calls ``act`` after the batch ``at`` (from 0) of training, test, validation or prediction."""

    act: ClassVar[Callable[[], object] | None] = None
    at: ClassVar[int] = 0

    def __init__(self):
        self.seen = 0

    def _count(self, trainer, *args):
        if not trainer.sanity_checking and self.act is not None:
            if self.seen == self.at:
                type(self).act()
            self.seen += 1

    on_train_batch_end = on_test_batch_end = on_predict_batch_end = _count
    on_validation_batch_end = _count
