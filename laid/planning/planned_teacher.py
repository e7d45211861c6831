"""A teacher whose signals come from a cache, in a plan, which reads none."""

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor

from laid.signals.model_inputs import ModelInputs, answer_labels
from laid.signals.model_signals import QK, AttentionShape, Signals, Wanted
from laid.signals.teacher_source import TeacherSource
from laid.teacher_cache.stored_numbers import StoredAs
from laid.training.placement import Placement
from laid.training.teacher_choice import TeacherChoice
from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import ModelArgs, load_config
from laid.vlm.pair_check import check_teacher
from laid.vlm.rotation import Rotation


class PlannedCache(TeacherSource):
    """Signals of the teacher's shapes and dtype, with nothing in them."""

    def __init__(self, args: ModelArgs, stored_as: StoredAs):
        self._rotation = Rotation(args)
        self._vocabulary = load_config(args).text_config.vocab_size
        read = {"teacher": args.dtype, "bfloat16": "bfloat16", "int8": "float32"}[stored_as]
        self._dtype = getattr(torch, read)

    @property
    def layers(self) -> int:
        return self._rotation.family.shape.layers

    @property
    def any_input(self) -> bool:
        return False

    def turn(self, x_BLHD: Tensor, positions_3BL: Tensor) -> Tensor:
        return self._rotation.turn(x_BLHD, positions_3BL)

    def missing(self, wanted: Wanted) -> str | None:
        return None

    def to(self, device: torch.device) -> None:
        self._rotation.to(device)

    def forget_images(self) -> None:
        pass

    def learn(
        self, names: list[str], pixel_values_PC: Tensor, grid_I3: Tensor, limit_gib: float
    ) -> None:
        pass

    def signals(self, inputs: ModelInputs, wanted: Wanted) -> Signals:
        shape, batch = self._rotation.family.shape, inputs.input_ids_BL.shape
        device = inputs.input_ids_BL.device

        def of(*sizes: int) -> Tensor:
            return torch.empty(sizes, dtype=self._dtype, device=device)

        heads = shape.heads, shape.kv_heads
        qk = {n: QK(*(of(*batch, count, shape.head_dim) for count in heads)) for n in wanted.layers}
        answers = len(answer_labels(inputs.labels_BL))
        return Signals(qk, of(answers, self._vocabulary) if wanted.logits else None)


class PlannedChoice(TeacherChoice):
    """Takes the place of a cache, which need not be there, by the teacher's configuration."""

    def check(
        self,
        student: ModelArgs,
        tokenizer_of: Callable[[ModelArgs], Any],
        terms: Mapping[str, bool],
        trainer: L.Trainer,
    ) -> None:
        """As ``check_teacher``.

        Raises:
            UserError: no teacher is named, whose shapes a plan needs.
        """
        check_teacher(student, self.args, tokenizer_of, terms)

    @property
    def shape(self) -> AttentionShape:
        assert self.args is not None
        return family_of(load_config(self.args)).shape

    def source(self, placement: Placement, wanted: Wanted) -> TeacherSource:
        assert self.args is not None
        if self.folder is None:
            return super().source(placement, wanted)
        return PlannedCache(self.args, self.stored_as)
