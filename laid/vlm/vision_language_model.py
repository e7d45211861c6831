"""One model with the three things that distillation and testing ask of it.

Shape suffixes: B batch, L tokens, U columns of the batch that predict an answer token in some row,
N answer tokens of the whole batch, T generated tokens, V vocabulary, H heads, D head_dim, F rotary
pairs, R rows of positions (3 for M-RoPE).
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import QK, Signals, Wanted
from laid.vlm.families.registry import family_of
from laid.vlm.families.vision_features import VisionFeatures
from laid.vlm.image_features import ImageFeatures, features_of_batch, run_on_blank
from laid.vlm.layer_options import compile_layers
from laid.vlm.lora import LoraArgs, adapters, add_lora, base_of
from laid.vlm.model_loading import ModelArgs, load_model
from laid.vlm.packed_row import attend_by_haystack, one_row, row_arguments, split_haystacks
from laid.vlm.qk_capture import captured_qk, first_layers
from laid.vlm.rope_gain import RopeGainArgs, add_gains, gain_parameters, gains_of
from laid.vlm.stored_features import StoredFeatures
from laid.vlm.window_extension import Settings


class VLM(nn.Module):
    """A model that gives signals for training and answers for testing."""

    def __init__(
        self, hf: PreTrainedModel, lora: LoraArgs | None = None, gain: RopeGainArgs | None = None
    ):
        super().__init__()
        if lora is not None:
            add_lora(hf, lora)
        if gain is not None:
            add_gains(hf, gain)
        self.hf = hf
        self.family = family_of(hf.config)
        self.shape = self.family.shape
        self.base: dict[str, Any] = {}  # with LoRA: the fingerprint of the frozen weights
        self.features: ImageFeatures | StoredFeatures = ImageFeatures()
        self.in_step = False
        """Whether the model is sharded, so that each rank must run it as often as the others."""
        self.computes: torch.dtype | None = None
        """In which dtype a sharded model multiplies; None: as its weights are held."""

    @classmethod
    def load(
        cls,
        args: ModelArgs,
        lora: LoraArgs | None = None,
        extension: Settings | None = None,
        weights: bool = True,
        gain: RopeGainArgs | None = None,
    ) -> "VLM":
        """Builds it from a hub id, folder or configuration (``laid/vlm/model_loading.py``)."""
        vlm = cls(load_model(args, extension, weights), lora, gain)
        if lora is not None and weights:
            vlm.base = base_of(args)
        return vlm

    @property
    def blocks(self) -> list[nn.Module]:
        """The vision tower's blocks and the decoder's layers, in the order in which they run."""
        return [*self.family.tower_blocks(self.hf), *self.family.layers(self.hf)]

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def vision_frozen(self) -> bool:
        """Whether the vision tower stays as it is: then an image has the same features always."""
        parts = self.family.vision_parts(self.hf)
        return not any(p.requires_grad for part in parts for p in part.parameters())

    def adapters(self) -> list[nn.Parameter]:
        """LoRA's matrices, which an optimizer gives a rate of their own; none without LoRA."""
        return adapters(self)

    def gain_parameters(self) -> list[nn.Parameter]:
        """The logarithms of RoPE response gains, which an optimizer gives a rate of their own; none
        without gains."""
        return gain_parameters(self)

    def gains(self) -> dict[int, Tensor]:
        """``gain_HF`` of each decoder layer that has gains; all ranks call it together."""
        return gains_of(self.hf)

    def compile_layers(self, left_out: Collection[int], **how: str) -> None:
        compile_layers(self.hf, self.family, left_out, **how)

    def forget_images(self) -> None:
        """Drops what was learned of images."""
        self.features = ImageFeatures()

    @torch.no_grad()
    def seen(self, pixel_values_PC: Tensor, grid_I3: Tensor) -> list[VisionFeatures]:
        """Features of some images, by a frozen vision tower."""
        assert self.vision_frozen
        pixel_values_PC, grid_I3 = pixel_values_PC.to(self.device), grid_I3.to(self.device)
        return self.family.vision_features(self.hf, pixel_values_PC, grid_I3)

    def learn(
        self, names: list[str], pixel_values_PC: Tensor, grid_I3: Tensor, limit_gib: float
    ) -> None:
        """Computes images' features and keeps them; batches may then leave their pixels out.

        Raises:
            UserError: the features of all images so far take more than ``limit_gib``.
        """
        assert isinstance(self.features, ImageFeatures)
        for name, features in zip(names, self.seen(pixel_values_PC, grid_I3), strict=True):
            self.features.add(name, features, limit_gib)

    def rotate(self, x_BLHD: Tensor, positions_3BL: Tensor, layer: int = 0) -> Tensor:
        """Captured queries or keys rotated by positions of one's own choice, as
        ``laid.signals.model_signals.Rotate``."""
        return self.family.rotate(self.hf, x_BLHD, positions_3BL, layer)

    def signals(self, inputs: ModelInputs, wanted: Wanted) -> Signals:
        """Q and K of the wanted layers, and the logits that predict the answer.

        The vocabulary's logits are computed at the answer's positions only: for 150 images the
        logits of all positions would be 54,000 x 152,064. Where none are wanted, the decoder ends
        with the last wanted layer. Haystacks that are run in one row are given back as any others.
        """
        lengths = inputs.lengths
        if lengths:
            attend_by_haystack(self.hf)
            inputs = one_row(inputs)
        answers = inputs.answers
        keep_U = answers.keep_U if wanted.answers else answers.keep_U[:1]
        layers = None if wanted.answers else max(wanted.layers, default=-1) + 1
        with (
            first_layers(self.family.decoder(self.hf), layers),
            captured_qk(self.hf, self.family, wanted.layers) as (q, k),
        ):
            out = self.hf(**self._arguments(inputs), logits_to_keep=keep_U, use_cache=False)
        if lengths:
            q, k = ({n: split_haystacks(x, lengths) for n, x in one.items()} for one in (q, k))
        qk = {layer: QK(q[layer], k[layer]) for layer in q}
        logits_NV = out.logits[answers.rows_N, answers.slots_N] if wanted.answers else None
        return Signals(qk=qk, logits_NV=logits_NV)

    @torch.no_grad()
    def answer(self, inputs: ModelInputs, max_new_tokens: int) -> Tensor:
        """Greedy answers ``ids_BT``, padded with the end token; ``inputs`` are padded on the left.

        The hub's generation_config (such as a repetition penalty) has no effect:
        ``load_model`` keeps nothing of it but the end tokens.
        """
        stop = self.hf.generation_config.eos_token_id
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=stop[0] if isinstance(stop, list) else stop,
        )
        arguments = self._arguments(inputs)
        # generate() makes positions itself, and continues them while it decodes.
        del arguments["position_ids"]
        ids_BL = self.hf.generate(**arguments, generation_config=config, synced_gpus=self.in_step)
        return ids_BL[:, inputs.input_ids_BL.shape[1] :]

    def ended(self, ids_BT: Tensor) -> Tensor:
        """``ended_B``: whether an answer ended with an end token, and not at the most tokens."""
        stop = torch.tensor(self.hf.generation_config.eos_token_id, device=ids_BT.device)
        return torch.isin(ids_BT[:, -1], stop)

    def _arguments(self, inputs: ModelInputs) -> dict[str, Any]:
        if inputs.lengths:
            arguments = row_arguments(self.family, inputs)
        else:
            arguments = self.family.arguments(inputs)
        if not inputs.images:
            if self.in_step and self.features.empty:
                run_on_blank(self.hf)
        elif self.vision_frozen:
            features = features_of_batch(self.hf, self.features, inputs)
            arguments["mm_encoder_outputs"] = {"image": self.family.encoder_output(features)}
        else:
            arguments["pixel_values"] = inputs.pixel_values_PC
        return arguments
