"""What laid asks of a model family: all that differs from one vision-language model to another.

A family is bound to the configuration of one model; it holds no weights, and data workers have a
copy. What is here is right for several of transformers' models; a subclass says the rest and
overrides what is not (``docs/extending.md`` has an example).

Shape suffixes: B batch, L tokens, R rows of positions (3 for M-RoPE: time, height, width; else 1),
H heads, D head_dim, I images, P pieces that images are cut into (patches, or tiles), ... the shape
of a piece, V visual tokens of one image, E hidden size of the decoder.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling

from laid.common.errors import UserError
from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import AttentionShape
from laid.vlm.families.vision_features import VisionFeatures

Config: TypeAlias = PreTrainedConfig
"""A model's configuration, with its ``text_config`` and ``vision_config``."""
Grid = tuple[int, int, int]
"""Pieces of an image in time, height and width. Their product is the image's rows of
``pixel_values``; a family that cuts tiles has (tiles, 1, 1)."""


@dataclass(frozen=True)
class Family(ABC):
    """One model family, bound to a model's configuration."""

    config: Config

    model_type: ClassVar[str]
    """``config.model_type`` of its models, by which the registry finds it."""
    title: ClassVar[str]
    """What messages call it."""
    model_class: ClassVar[type[PreTrainedModel]]
    """transformers' class, with a language-model head."""
    apply_rotary: ClassVar[Callable[..., tuple[Tensor, Tensor]]]
    """transformers' function of (q, k, cos, sin, unsqueeze_dim), as a ``staticmethod``."""
    image_processor: ClassVar[type[Any]]
    """transformers' image processor that needs no torchvision."""
    processor_class: ClassVar[type[ProcessorMixin]]
    """transformers' processor; of one with videos without that half, which needs torchvision."""
    end_of_turn: ClassVar[str]
    """Token after an answer."""
    prompt_tokens: ClassVar[int]
    """Tokens of a Visual Haystacks prompt in the family's chat template, images left out; for
    plans, which load no tokenizer."""

    position_rows: ClassVar[int] = 1
    """R, 3 for M-RoPE."""
    qk_layout: ClassVar[Literal["flat", "BLHD", "BHLD"]] = "flat"
    """Of the outputs of ``qk_modules``: flat [B, L, H D] as a projection gives them, BLHD after a
    norm of each head, BHLD after a norm that follows the transpose."""
    rope_keys: ClassVar[tuple[str, ...]] = ("rope_theta",)
    """Keys of ``rope_parameters`` that YaRN keeps."""
    not_extended: ClassVar[Mapping[str, str]] = {}
    """Why a training-free window extension, yarn or self-extend, does not work with the family."""
    renamed: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Regular expressions, and what replaces them, from names in checkpoint files to transformers'
    names of parameters."""
    packs: ClassVar[bool] = False
    """Whether several haystacks are tested in one row (``laid/vlm/packed_row.py``)."""
    exchanged: ClassVar[tuple[str, ...]] = ()
    """Regular expressions of parameters whose last two dimensions files may have in the other
    order."""
    loops_over_images: ClassVar[bool] = False
    """Whether the vision tower under sdpa calls attention once an image or window, and under flash
    attention once a block, with ``cu_seq_lens_q``; a plan then asks for the latter."""

    # Where things are.

    def decoder(self, hf: PreTrainedModel) -> PreTrainedModel:
        """The text model: has ``layers`` and ``rotary_emb``."""
        return hf.model.language_model

    def layers(self, hf: PreTrainedModel) -> Sequence[nn.Module]:
        return self.decoder(hf).layers

    @abstractmethod
    def tower(self, hf: PreTrainedModel) -> PreTrainedModel:
        """The vision tower."""

    @abstractmethod
    def tower_blocks(self, hf: PreTrainedModel) -> Sequence[nn.Module]:
        """The vision tower's blocks, which are sharded one by one."""

    def vision_parts(self, hf: PreTrainedModel) -> tuple[nn.Module, ...]:
        """All that is between pixels and features, which ``freeze_vision`` freezes: the tower, and
        the projector where it is not part of it."""
        return (self.tower(hf),)

    def built(self, hf: PreTrainedModel) -> None:  # noqa: B027
        """Called once with a model that was built; for hooks that the family needs."""

    # Attention.

    @property
    def shape(self) -> AttentionShape:
        """The decoder's attention; head_dim as stated, else hidden size / query heads."""
        text = self.config.text_config
        return AttentionShape(
            layers=text.num_hidden_layers,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None)
            or text.hidden_size // text.num_attention_heads,
            position_rows=self.position_rows,
        )

    def qk_modules(self, layer: nn.Module) -> tuple[nn.Module, nn.Module]:
        """The modules of a decoder layer whose outputs are queries and keys right before RoPE; the
        norms of q and k, where there are any."""
        attention = layer.get_submodule("self_attn")
        return attention.get_submodule("q_proj"), attention.get_submodule("k_proj")

    def q_projection(self, layer: nn.Module) -> nn.Module:
        """The linear layer whose outputs are the queries right before RoPE: a RoPE response gain
        is folded into its rows.

        Raises:
            UserError: a norm that all heads share is between it and RoPE.
        """
        if self.qk_layout != "flat":
            raise UserError(
                f"model.rope_gain: {self.title} has a norm of queries that all heads share, so a "
                "gain of each head can't be folded into its weights; leave model.rope_gain out"
            )
        return self.qk_modules(layer)[0]

    def split_heads(self, out: Tensor) -> Tensor:
        """What a module of ``qk_modules`` returns, as ``x_BLHD``."""
        if self.qk_layout == "flat":
            return out.unflatten(-1, (-1, self.shape.head_dim))
        return out.transpose(1, 2) if self.qk_layout == "BHLD" else out

    def rotate(
        self, hf: PreTrainedModel, x_BLHD: Tensor, positions_RBL: Tensor, layer: int
    ) -> Tensor:
        """Queries or keys as attention sees them: RoPE by the model's own ``rotary_emb``.

        Args:
            layer: of the decoder; for families whose layers rotate differently.

        Returns:
            ``turned_BLHD`` in float32.
        """
        x_BLHD = x_BLHD.float()
        positions = self.position_argument(positions_RBL)
        cos_BLD, sin_BLD = self.decoder(hf).rotary_emb(x_BLHD, positions)
        return self.apply_rope(x_BLHD, cos_BLD, sin_BLD, 2)

    def apply_rope(self, x: Tensor, cos_BLD: Tensor, sin_BLD: Tensor, heads: int) -> Tensor:
        """``apply_rotary`` to one tensor, of which dimension ``heads`` is that of heads."""
        # It takes queries and keys together: no heads stand for the other one.
        return self.apply_rotary(x, x.narrow(heads, 0, 0), cos_BLD, sin_BLD, heads)[0]

    # A forward pass.

    def arguments(self, inputs: ModelInputs) -> dict[str, Any]:
        """Of ``forward`` and ``generate``, pixels and features left out."""
        return {
            "input_ids": inputs.input_ids_BL,
            "attention_mask": inputs.attention_mask_BL,
            "position_ids": self.position_argument(inputs.position_ids_3BL),
        }

    def position_argument(self, positions_RBL: Tensor) -> Tensor:
        """Positions as the decoder takes them: [B, L] where there is one row."""
        return positions_RBL if len(positions_RBL) > 1 else positions_RBL[0]

    def positions(self, input_ids_BL: Tensor, visual_BL: Tensor, grid_I3: Tensor) -> Tensor:
        """``positions_RBL`` of tokens without padding; made in data workers, without a model.

        Args:
            visual_BL: 1 for a visual token, 0 for text.
            grid_I3: of all images, in order.
        """
        return torch.arange(input_ids_BL.shape[1]).expand(1, *input_ids_BL.shape)

    def vision_features(
        self, hf: PreTrainedModel, pixel_values: Tensor, grid_I3: Tensor
    ) -> list[VisionFeatures]:
        """The features of each image, by transformers' ``get_image_features``.

        Args:
            pixel_values: [P, ...] of all images.
        """
        tokens = hf.get_image_features(pixel_values, grid_I3).pooler_output
        return [VisionFeatures(tokens_VE) for tokens_VE in tokens]

    def encoder_output(self, features: Sequence[VisionFeatures]) -> BaseModelOutputWithPooling:
        """The features of a batch's images as ``forward`` takes them, in
        ``mm_encoder_outputs["image"]``."""
        return BaseModelOutputWithPooling(pooler_output=[one.tokens_VE for one in features])

    # The processor.

    def load_processor(self, folder: str, revision: str | None, **options: Any) -> ProcessorMixin:
        """transformers' tokenizer, chat template and image processor, without torchvision.

        Args:
            folder: or a hub id.
            options: further arguments of ``processor_class``.

        Raises:
            OSError, ValueError: it can't be loaded.
        """
        tokenizer = AutoTokenizer.from_pretrained(
            folder, revision=revision, trust_remote_code=False
        )
        images = self.image_processor.from_pretrained(folder, revision=revision)
        template = getattr(tokenizer, "chat_template", None)
        return self.processor_class(images, tokenizer, chat_template=template, **options)

    @abstractmethod
    def limit_pixels(self, processor: ProcessorMixin, least: int | None, most: int | None) -> None:
        """Sets the smallest and the largest image; None: as the processor says.

        Raises:
            UserError: they contradict each other, or the family has no such limits.
        """

    @abstractmethod
    def pieces(
        self, processor: ProcessorMixin, images: Sequence[Image.Image]
    ) -> tuple[Tensor, Tensor]:
        """Images as the vision tower takes them: ``pixel_values`` [P, ...] and ``grid_I3``."""

    @abstractmethod
    def image_text(self, processor: ProcessorMixin, grid_3: Tensor) -> str:
        """What takes the place of ``processor.image_token`` in the text: the image's tokens."""

    # Whether two models fit together.

    def facts(self) -> dict[str, Any]:
        """What student and teacher must have in common to read the same inputs, by the name that a
        message gives it."""
        return {"family": self.title, "image_token_id": self.config.image_token_id}

    def head_facts(self) -> dict[str, Any]:
        """What they must have in common for a loss that compares queries and keys as vectors: all
        that decides the rotation among it, since Eq. 3 is Eq. 5 only under the same."""
        rope = self.config.text_config.rope_parameters
        decides = {key: value for key, value in rope.items() if key != "type"}  # version 4's
        return {"head_dim": self.shape.head_dim, **decides}

    # Files.

    @classmethod
    def parameter_name(cls, key: str) -> str:
        """transformers' name of what a checkpoint file calls ``key``."""
        for old, new in cls.renamed:
            key = re.sub(old, new, key)
        return key

    @classmethod
    def may_be_exchanged(cls, name: str) -> bool:
        """Whether a file may have a parameter's last two dimensions in the other order."""
        return any(re.search(pattern, name) for pattern in cls.exchanged)

    @abstractmethod
    def preprocessor_config(self, processor: ProcessorMixin) -> dict[str, Any]:
        """The stock preprocessor_config.json of an exported model."""

    def for_version_4(self, config: dict[str, Any]) -> dict[str, Any]:
        """An exported config.json, with what transformers 4 reads under other keys."""
        return config

    # Plans, which know a configuration and nothing else.

    @abstractmethod
    def planned_grid(self, width: int, height: int, least: int | None, most: int | None) -> Grid:
        """How the image processor cuts an image; limits in pixels, None: the family's own."""

    @abstractmethod
    def planned_image(self, grid: Grid) -> list[int]:
        """Token ids of an image in a prompt, its marks among them."""

    @abstractmethod
    def planned_piece(self) -> tuple[int, ...]:
        """Shape of a piece, that of ``pixel_values`` without its first dimension."""
