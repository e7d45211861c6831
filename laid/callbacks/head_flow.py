"""Head-level knowledge flow: the paper's Figure 4, before and after training.

Shape suffixes: B batch, L tokens, K KV heads, D head_dim.
"""

import json
import logging
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from laid.callbacks.head_flow_figure import flow_figure, gain_figure, mixing_figure
from laid.callbacks.shown_figures import boards, show_figure
from laid.checkpoints.runs import run_folder
from laid.common.atomic_files import atomic_write_text
from laid.common.errors import UserError
from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import Wanted

log = logging.getLogger(__name__)

Curves = dict[str, list[list[float]]]
"""By layer (``layer_27``): one row a haystack size, one column a key head."""


SIZES = (1, 2, 5, 10, 20)
"""Haystack sizes where the validation is built."""


class HeadFlow(Callback):
    """Plots each key head's normalised activation against haystack size.

    Of the student before and after training, and of the teacher; the mixing matrices before and
    after too, and the RoPE response gains after. docs/head_flow.md has the formula: the paper gives
    none.
    """

    def __init__(
        self,
        enabled: bool = True,
        sizes: list[int] | None = None,
        per_size: int = 4,
        tokens: Literal["image", "text", "all"] = "image",
        student_layers: list[int] | None = None,
        teacher_layers: list[int] | None = None,
    ):
        """
        Args:
            enabled: Whether to do it.
            sizes: Haystack sizes to probe at. None: 1 2 5 10 20 where the validation is built, all
                of its sources that have images.
            per_size: Entries probed at each size, an even number; of the validation split.
            tokens: Whose keys count: those of the images, of the text, or all.
            student_layers: Layers of the student. None: those that are aligned, or the last.
            teacher_layers: Layers of the teacher. None: those that are aligned.

        Raises:
            UserError: no sizes, or one below 1: there is no key of an image to measure.
        """
        if sizes is not None and not sizes:
            raise UserError("head_flow.sizes is empty: give sizes, or head_flow.enabled false")
        if sizes is not None and min(sizes) < 1:
            raise UserError(f"head_flow.sizes {sizes}: expected haystack sizes of 1 or more images")
        self.enabled = enabled
        self.sizes = sizes
        self.per_size = per_size
        self.tokens = tokens
        self.student_layers = student_layers
        self.teacher_layers = teacher_layers
        self.curves: dict[str, Curves] = {}
        self.mixing: dict[str, dict[str, list[list[float]]]] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"curves": self.curves, "mixing": self.mixing}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # A resumed run keeps the "before" of its beginning.
        self.curves, self.mixing = state["curves"], state["mixing"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.enabled = self.enabled and not trainer.fast_dev_run
        # Here, before models are built, an impossible size fails at once.
        if stage == "fit" and self.enabled:
            data = trainer.datamodule
            entries = data.probes("head_flow", self.sizes, self.per_size, of_built=SIZES)
            of_each = list(entries["size"])
            self._entries = {
                size: entries.select([at for at, own in enumerate(of_each) if own == size])
                for size in self.sizes or sorted({*of_each})
            }
            if not self._entries:
                log.warning("head_flow: left out, no validation entry has an image")
                self.enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.enabled or "student_before" in self.curves:
            return
        self._measure(trainer, pl_module, "student_before")
        teacher = pl_module.teacher
        layers = self.teacher_layers or pl_module.objective.of_teacher.layers
        if teacher is not None and not teacher.any_input:
            if self.teacher_layers:
                raise UserError(
                    f"head_flow.teacher_layers {self.teacher_layers}: the teacher's signals come "
                    "from a cache, which has training entries only; leave it out"
                )
            log.info("head_flow: without the teacher, whose cache has training entries only")
        elif teacher is not None and layers:
            if reason := teacher.missing(Wanted(layers=tuple(layers))):
                raise UserError(f"head_flow.teacher_layers: {reason}")
            self.curves["teacher"] = self._probe(trainer, pl_module, teacher.signals, layers)
        self._mix(pl_module, "before")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.enabled or "student_before" not in self.curves:
            return
        self._measure(trainer, pl_module, "student_after")
        titles = self._mix(pl_module, "after")
        gains = {f"layer_{n}": gain.tolist() for n, gain in pl_module.student.gains().items()}
        if trainer.is_global_zero:
            self._write(trainer, titles, gains)

    def _mix(self, pl_module: LightningModule, stage: str) -> dict[str, str]:
        """Records the mixing matrices, on all ranks (sharded ones are gathered); their titles."""
        matrices = pl_module.objective.matrices()
        self.mixing[stage] = {name: m.values_ST.tolist() for name, m in matrices.items()}
        return {name: m.title for name, m in matrices.items()}

    def _measure(self, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
        last = pl_module.student.shape.layers - 1
        layers = self.student_layers or pl_module.objective.of_student.layers or [last]
        if not all(0 <= layer <= last for layer in layers):
            raise UserError(f"head_flow.student_layers {layers}: the student has 0 to {last}")
        student, training = pl_module.student, pl_module.student.training
        student.eval()  # without LoRA's dropout
        self.curves[name] = self._probe(trainer, pl_module, student.signals, layers)
        student.train(training)

    @torch.no_grad()
    def _probe(
        self, trainer: Trainer, pl_module: LightningModule, signals: Any, layers: Sequence[int]
    ) -> Curves:
        data = trainer.datamodule
        wanted = Wanted(layers=tuple(sorted(set(layers))))
        sums: dict[str, list[Tensor]] = {f"layer_{layer}": [] for layer in wanted.layers}
        for entries in self._entries.values():
            means: dict[str, list[Tensor]] = {name: [] for name in sums}
            for batch in data.probe(entries, pl_module.device):
                with trainer.precision_plugin.forward_context():
                    found = signals(batch.inputs, wanted)
                mask_BL = token_mask(batch.inputs, self.tokens)
                for layer, qk in found.qk.items():
                    means[f"layer_{layer}"].append(key_activation(qk.k, mask_BL)[0])
            for name, rows in means.items():
                sums[name].append(torch.stack(rows).mean(0).cpu())
        return {name: normalised(torch.stack(rows)).tolist() for name, rows in sums.items()}

    def _write(
        self, trainer: Trainer, titles: dict[str, str], gains: dict[str, list[list[float]]]
    ) -> None:
        folder = run_folder(trainer)
        sizes = list(self._entries)
        keys = ("per_size", "tokens", "curves", "mixing")
        everything: dict[str, Any] = {"sizes": sizes} | {key: getattr(self, key) for key in keys}
        everything |= {"rope_gain": gains} if gains else {}
        atomic_write_text(folder / "figures" / "head_flow.json", json.dumps(everything))
        show_figure(trainer, flow_figure(sizes, self.curves), folder, "head_flow")
        if self.mixing["after"]:
            show_figure(trainer, mixing_figure(self.mixing, titles), folder, "mixing")
        if gains:
            show_figure(trainer, gain_figure(gains), folder, "rope_gain")
        for board in boards(trainer):
            for who, curves in self.curves.items():
                for layer, rows in curves.items():
                    for size, row in zip(sizes, rows, strict=True):
                        # A curve whose steps are haystack sizes.
                        tag = f"head_flow/{who}/{layer}"
                        board.add_scalar(f"{tag}/mean", sum(row) / len(row), size)
                        for head, value in enumerate(row):
                            board.add_scalar(f"{tag}/head_{head:02d}", value, size)


def token_mask(inputs: ModelInputs, tokens: str) -> Tensor:
    """``mask_BL``: the tokens whose keys count."""
    mask_BL = inputs.attention_mask_BL.bool()
    if tokens == "all":
        return mask_BL
    return mask_BL & (inputs.mm_token_type_ids_BL == int(tokens == "image"))


def key_activation(k_BLKD: Tensor, mask_BL: Tensor) -> Tensor:
    """Length of a head's key, averaged over tokens: ``activation_BK``.

    RoPE rotates keys and leaves their length, so it is the same before and after.
    """
    length_BLK = k_BLKD.float().norm(dim=-1) * mask_BL.unsqueeze(-1)
    return length_BLK.sum(1) / mask_BL.sum(1, keepdim=True).clamp(min=1)


def normalised(activation_SK: Tensor) -> Tensor:
    """Divided by the largest value over haystack sizes S and heads K of the layer."""
    return activation_SK / activation_SK.max().clamp(min=1e-12)
