"""Share of attention: in a virtual haystack the student's heads pay to images, rather than to text,
what they pay in the real one.

Ours; there is no teacher. A head whose rows pay more to images the more of them there are, or the
further away they are, reads less of the question (docs/methods.md).

Shape suffixes: B batch, R rows of a haystack, L tokens of a haystack, P tokens before its first
image, N tokens of all images, M images, H query heads, K KV heads, D head_dim.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus
from torch.utils.checkpoint import checkpoint

from laid.common.errors import UserError
from laid.losses.attention_rows import HIDDEN, Rows, logits_of, question_rows, row_logits
from laid.losses.image_bank import (
    Distractors,
    ImageBank,
    KeyedImages,
    check_slots,
    of_all_ranks,
    with_bank,
)
from laid.losses.image_tokens import BatchImages, images_of, plain
from laid.losses.reduction import mean_by_entry
from laid.losses.term import ModelPair, Term, TermArgs
from laid.losses.token_parts import PART
from laid.losses.virtual_haystack import VirtualHaystack, at_random_slots
from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import QK, Rotate, Signals, Wanted
from laid.signals.token_choice import at_columns


@dataclass
class ImageShareArgs(TermArgs):
    """The student's share of attention on images, in virtual haystacks as in real ones. Ours."""

    name: ClassVar[str] = "image_share"
    has_teacher: ClassVar[bool] = False

    weight: float = 0.0
    """lambda_share; at 0 the term is not built."""
    distractors: Distractors = "bank"
    """Images beside the haystack's own, as those of retrieval."""
    bank_tokens: int = 2048
    """Image tokens that are kept of earlier micro-batches."""
    reach: int = 150
    """Slots of the virtual haystack, in images of average length."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_slots(self.name, self.distractors, self.bank_tokens, self.reach, least=1)

    @property
    def needs_images(self) -> bool:
        return True

    def build(self, models: ModelPair) -> "ImageShare":
        return ImageShare(self, models)


class ImageShare(Term):
    """KL divergence between two shares of attention on images: of the real haystack, without
    gradient, and of the virtual one; in all rows of the text after the last image, heads, and
    layers that see the whole haystack."""

    def __init__(self, args: ImageShareArgs, models: ModelPair):
        """Raises:
        UserError: no layer of the student sees the whole haystack.
        """
        super().__init__()
        shape = models.student
        self.args, self.models = args, models
        self.layers = tuple(layer for layer in range(shape.layers) if not shape.window(layer))
        if not self.layers:
            raise UserError(
                f"objective.image_share: every layer of the student sees {shape.window(0)} tokens, "
                "and no image further away; expected a model with layers that see the whole "
                "haystack, or weight 0"
            )
        self.bank = None
        if args.distractors == "bank":
            each = (shape.kv_heads, shape.head_dim)
            keys = {_key(layer): each for layer in self.layers}
            self.bank = ImageBank(args.bank_tokens, keys, shape.position_rows, args.name)

    @property
    def of_student(self) -> Wanted:
        return Wanted(layers=self.layers)

    def forward(self, student: Signals, teacher: Signals | None, inputs: ModelInputs) -> Tensor:
        """The loss of a batch: a mean over rows, haystacks, heads and layers. An entry without
        images counts as 0."""
        args, images, rows = self.args, images_of(inputs), question_rows(inputs)
        rows = replace(rows, valid_BR=rows.text_BR)
        at = images.haystack_N, images.column_N
        own = KeyedImages(plain(images), {_key(s): student.qk[s].k[at] for s in self.layers})
        step, own_BM = of_all_ranks(own, images)
        if not step.images.images:
            return torch.zeros((), device=inputs.input_ids_BL.device)
        pool = with_bank(step, self.bank, args.reach)
        place = at_random_slots(
            rows,
            images.question_B,
            pool.images,
            pad(own_BM, (0, pool.images.images - step.images.images)),
            max(args.reach, pool.images.distinct),
            torch.Generator().manual_seed(self.step),
            distractors=args.distractors != "none",
        )
        parts = TextAndImages.of(images, rows)
        losses = []
        for s in self.layers:
            qk, rotate = student.qk[s], partial(self.models.rotate, layer=s)
            of_layer = partial(parts.divergence, rows, place, rotate)
            tensors = qk.q, qk.k, pool.keys[_key(s)]
            numbers = rows.columns_BR.numel() * qk.q.shape[2] * len(pool.images.image_N)
            if numbers <= PART:
                loss_BRH = of_layer(*tensors)
            else:  # nothing is kept for the backward pass, which computes it again
                loss_BRH = checkpoint(
                    of_layer, *tensors, use_reentrant=False, preserve_rng_state=False
                )
            losses.append(mean_by_entry(loss_BRH.mean(-1), rows.valid_BR))
        if self.bank is not None and self.training:
            self.bank.add(step.detached())
        return torch.stack(losses).mean()


@dataclass(frozen=True)
class TextAndImages:
    """Which keys of a haystack are images', and which are text before and after them. Text between
    images is neither: it has no place in a virtual haystack.

    Attributes:
        image_BRL, after_BRL, before_BRP: what a row sees of each.
        start_3B1: position of the first image's first token.
    """

    image_BRL: Tensor
    after_BRL: Tensor
    before_BRP: Tensor
    start_3B1: Tensor

    @classmethod
    def of(cls, images: BatchImages, rows: Rows) -> "TextAndImages":
        """Those of a batch; an entry without images has no text before them."""
        batch, _, length = rows.visible_BRL.shape
        column_L = torch.arange(length, device=rows.visible_BRL.device)
        image_BL = torch.zeros_like(rows.visible_BRL[:, 0])
        image_BL[images.haystack_N, images.column_N] = True
        first_B1 = torch.where(image_BL, column_L, length).amin(1, keepdim=True)
        last_B1 = torch.where(image_BL, column_L, -1).amax(1, keepdim=True)
        before_BL = (column_L < first_B1) & (last_B1 >= 0)
        before = int(before_BL.sum(1).max())
        at_3B1 = first_B1.clamp(max=length - 1).expand(len(rows.positions_3BL), batch, 1)
        return cls(
            image_BRL=rows.visible_BRL & image_BL[:, None],
            after_BRL=rows.visible_BRL & (column_L > last_B1)[:, None],
            before_BRP=(rows.visible_BRL & before_BL[:, None])[..., :before],
            start_3B1=rows.positions_3BL.gather(2, at_3B1),
        )

    def divergence(
        self,
        rows: Rows,
        place: VirtualHaystack,
        rotate: Rotate,
        q_BLHD: Tensor,
        k_BLKD: Tensor,
        k_NKD: Tensor,
    ) -> Tensor:
        """KL divergence ``[B, R, H]`` of the virtual haystack's share from the real one's.

        Args:
            k_NKD: keys of ``place``'s images; all queries and keys are before RoPE.
        """
        real_BHRL = row_logits(QK(q_BLHD, k_BLKD), rows, rotate)
        after_BRH = _total(real_BHRL, self.after_BRL)

        length = self.before_BRP.shape[-1]
        q_BRHD = rotate(at_columns(q_BLHD, rows.columns_BR), place.row_positions_3BR)
        start_3BP = rows.positions_3BL[..., :length] - self.start_3B1
        before = replace(rows, visible_BRL=self.before_BRP)
        virtual_BHRP = logits_of(q_BRHD, rotate(k_BLKD[:, :length], start_3BP), before)

        def share(images_BRH: Tensor, before_BHRP: Tensor) -> Tensor:
            """The logit of the share on images."""
            text_BRH = torch.logaddexp(_total(before_BHRP, self.before_BRP), after_BRH)
            return images_BRH - text_BRH

        of_real = share(_total(real_BHRL, self.image_BRL), real_BHRL[..., :length]).detach()
        of_virtual = share(place.logits(q_BLHD, k_NKD, rotate).logsumexp(-1), virtual_BHRP)
        # sum p log(p / q) of two shares, by their logits; exactly 0 where these are equal.
        return softplus(of_virtual) - softplus(of_real) - of_real.sigmoid() * (of_virtual - of_real)


def _total(logits_BHRL: Tensor, some_BRL: Tensor) -> Tensor:
    """Log-sum-exp ``[B, R, H]`` of the logits to some of the keys, of which there may be none."""
    shown_BHRL = pad(logits_BHRL.masked_fill(~some_BRL[:, None], HIDDEN), (0, 1), value=HIDDEN)
    return shown_BHRL.logsumexp(-1).transpose(1, 2)


def _key(layer: int) -> str:
    return f"student.{layer}"
