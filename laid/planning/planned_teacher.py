"""A teacher whose signals come from a cache, in a plan, which reads none."""

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor

from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import QK, Signals, Wanted
from laid.signals.teacher_source import TeacherSource
from laid.signals.top_logits import TopLogits
from laid.teacher_cache.stored_numbers import StoredAs
from laid.training.placement import Placement
from laid.training.teacher_choice import TeacherChoice
from laid.vlm.model_loading import ModelArgs, load_config
from laid.vlm.pair_check import check_teacher
from laid.vlm.weightless_teacher import WeightlessTeacher


class PlannedCache(WeightlessTeacher):
    """Signals of the teacher's shapes and dtype, with nothing in them."""

    def __init__(self, args: ModelArgs, stored_as: StoredAs):
        super().__init__(args)
        self._vocabulary = load_config(args).text_config.vocab_size
        read = {"teacher": args.dtype, "bfloat16": "bfloat16", "int8": "float32"}[stored_as]
        self._dtype = getattr(torch, read)

    def missing(self, wanted: Wanted) -> str | None:
        return None

    def signals(self, inputs: ModelInputs, wanted: Wanted) -> Signals:
        shape, batch = self.shape, inputs.input_ids_BL.shape
        device = inputs.input_ids_BL.device

        def of(*sizes: int) -> Tensor:
            return torch.empty(sizes, dtype=self._dtype, device=device)

        heads = shape.heads, shape.kv_heads
        qk = {n: QK(*(of(*batch, count, shape.head_dim) for count in heads)) for n in wanted.layers}
        answers = len(inputs.answers.labels_N)
        found = Signals(qk, of(answers, self._vocabulary) if wanted.logits else None)
        if (top_k := wanted.top_k) is not None:
            ids_NK = torch.arange(top_k.count, device=device).expand(answers, -1)
            found.top = TopLogits(ids_NK, of(answers, top_k.count), of(answers))
        return found


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

    def source(self, placement: Placement, wanted: Wanted) -> TeacherSource:
        assert self.args is not None
        if not self.from_cache:
            return super().source(placement, wanted)
        return PlannedCache(self.args, self.stored_as)
