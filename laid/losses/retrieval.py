"""Retrieval alignment in virtual haystacks: the student's heads learn to find the image that the
teacher's heads look at, among images at distances that no training haystack has.

Our reading of the abstract's "progressive distance-weighted attention matching"; the paper does not
define it. What is compared is which image a row of the question looks for, so teacher and student
need not share a basis, a number of heads, or head_dim (docs/methods.md).

Shape suffixes: B batch, R rows of a haystack, L tokens of a haystack, N tokens of all images, M
images, S student heads, T teacher heads, H heads of either, K KV heads, D head_dim, 3 the temporal,
height and width rows of M-RoPE.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from laid.common.errors import UserError
from laid.distributed.process_group import gather
from laid.losses.attention_rows import Rows
from laid.losses.image_bank import (
    MOST,
    Distractors,
    ImageBank,
    KeyedImages,
    check_slots,
    of_all_ranks,
    with_bank,
)
from laid.losses.image_tokens import BatchImages, images_of, plain
from laid.losses.layer_pairs import LayerPairTerm, Layers
from laid.losses.reduction import mean_by_entry
from laid.losses.retrieval_loss import at_one_level, looked_for, needles, retrieval_loss
from laid.losses.retrieval_pairs import check_weights, pairs_message, taught_pairs
from laid.losses.retrieval_rows import HeadCorrelation, looking_rows
from laid.losses.term import CalibrationData, ModelPair, TermArgs
from laid.losses.virtual_haystack import VirtualHaystack, as_shown, at_random_slots
from laid.signals.model_inputs import ModelInputs
from laid.signals.model_signals import Signals, Wanted
from laid.signals.token_choice import QUESTION


@dataclass
class RetrievalArgs(TermArgs):
    """Retrieval alignment in virtual haystacks. Ours."""

    name: ClassVar[str] = "retrieval"

    weight: float = 0.0
    """lambda_retrieval; at 0 the term is not built."""
    layers: Layers = "all"
    """Layer pairs, as those of the alignment. With all and matched, only those are taught whose
    heads attend to images at least half as much alike as the best pair's."""
    rows: int = 1
    """Rows of each question that are taught: those from which the teacher's heads look most sharply
    at single images; all, where it has fewer. One for a question about one object."""
    distractors: Distractors = "bank"
    """Images beside the haystack's own: none, those of the micro-batch's other haystacks on all
    devices, or those and images of earlier micro-batches until there are as many as slots."""
    bank_tokens: int = 2048
    """Image tokens that are kept of earlier micro-batches."""
    reach: int = 150
    """Slots of the longest virtual haystack, in images of average length; 0: no more than the
    images there are."""
    growth: float = 0.0
    """Share of training over which the slots grow from the images there are to reach; 0: reach from
    the first step."""
    gamma: float = 0.0
    """Exponent of the weight (1 + distance / longest distance)^gamma of an image."""
    second_needle: float = 0.0025
    """An image of another haystack is left out where the teacher's squared attention to it is more
    than this share of what it pays the row's own best image: it may be a needle too. 0: none is."""
    target: Literal["teacher", "label"] = "teacher"
    """Which image a row is to find: the one that the teacher looks at, or the entry's needles.
    Rows, heads and candidates are the teacher's with both."""
    calibration: int = 48
    """Training entries on which the retrieving heads, and the pairs to teach, are found."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.rows <= MOST:
            raise UserError(f"objective.retrieval.rows {self.rows}: expected 1 to {MOST:,}")
        check_slots(self.name, self.distractors, self.bank_tokens, self.reach)
        if not 0 <= self.growth <= 1:
            raise UserError(f"objective.retrieval.growth {self.growth}: expected 0 to 1")
        if not 0 <= self.second_needle <= 1:
            raise UserError(
                f"objective.retrieval.second_needle {self.second_needle}: expected 0 to 1"
            )
        if not 0 <= self.gamma <= 32:  # 2^gamma is the highest weight; a norm squares it in float32
            raise UserError(f"objective.retrieval.gamma {self.gamma}: expected 0 to 32")
        if self.reach == 0 and self.growth:
            raise UserError(
                f"objective.retrieval.reach 0 with growth {self.growth}: there would be no slots "
                "beside those of the images there are; expected a reach of 1 or more, or growth 0"
            )

    @property
    def needs_images(self) -> bool:
        return True

    @property
    def needs_needles(self) -> bool:
        return self.target == "label"

    def build(self, models: ModelPair) -> "Retrieval":
        return Retrieval(self, models)


class Retrieval(LayerPairTerm):
    """Cross-entropy over images between the teacher's sharpest heads and the student's retrieving
    heads, in pairs of layers."""

    heads: Tensor
    # Rows of the question look for images, and are chosen by what they pay to every token.
    queries = QUESTION

    def __init__(self, args: RetrievalArgs, models: ModelPair):
        """Raises:
        UserError: as ``layer_pairs``, or a layer does not see the whole haystack.
        """
        setting = "objective.retrieval.layers"
        super().__init__(args.layers, models, setting)
        assert models.teacher is not None
        near = [s for s, _ in self.pairs if models.student.window(s)]
        if near:
            whole = [[s, t] for s, t in self.pairs if s not in near]
            raise UserError(
                f"{setting} {args.layers}: the student's layers {near} see "
                f"{models.student.window(near[0])} tokens, and no image further away; expected "
                "layers that see the whole haystack" + (f", such as {whole}" if whole else "")
            )
        self.args = args
        self.taught = list(range(len(self.pairs)))
        self.calibration_entries = args.calibration
        # How well each student head retrieves, by layer pair.
        self.register_buffer("heads", torch.ones(len(self.pairs), models.student.heads))
        shapes = {
            f"{whose}.{pair}": (shape.kv_heads, shape.head_dim)
            for pair in range(len(self.pairs))
            for whose, shape in (("student", models.student), ("teacher", models.teacher))
        }
        self.bank = None
        if args.distractors == "bank":
            self.bank = ImageBank(args.bank_tokens, shapes, models.student.position_rows)

    def calibrate(self, data: CalibrationData) -> str | None:
        """Weighs the student's heads by how alike they and the teacher's attend to images from the
        taught rows, and leaves out pairs of layers that do not (``taught_pairs``).

        Raises:
            UserError: no head retrieves, so the loss would be 0; a model's attention is not finite;
                or no image fits into the bank.
        """
        found = super().calibrate(data)
        self.taught = list(range(len(self.pairs)))
        tokens = self._weigh(data)
        if self.bank is not None and tokens > self.bank.capacity:
            raise UserError(
                f"objective.retrieval.bank_tokens {self.bank.capacity}: the smallest image of "
                f"{len(data.batches)} training entries has {tokens} tokens with its marks; "
                "expected room for at least one image, or distractors batch"
            )
        best_P = self.heads.amax(1)
        self.taught = taught_pairs(best_P, self.args.layers)
        if len(self.taught) < len(self.pairs):  # other teacher layers no longer choose the rows
            self._weigh(data)
        said = pairs_message(best_P, self.pairs, self.args.layers)
        return "; ".join(filter(None, (found, said))) or None

    def _weigh(self, data: CalibrationData) -> int:
        """Weighs each head of the taught pairs by the square of its highest correlation with a
        teacher head, others by 0; returns how many tokens the smallest image has.

        Raises:
            UserError: no head retrieves, or its correlation is not finite.
        """
        sums, tokens = [HeadCorrelation() for _ in self.taught], []
        for inputs, student, teacher in data.signals(self.of_student, self.of_teacher):
            images = images_of(inputs)
            rows = self._looking_rows(teacher, inputs, images)
            shown, own = as_shown(rows, images), self._keyed(images, student, teacher)
            logits = self._logits(shown, own, student, teacher)
            tokens.append(int(images.tokens_M.min()))
            # Of a question with fewer rows than are wanted, the others are of its answer.
            taught_R = rows.valid_BR[0]
            for one, (ours, theirs) in zip(sums, logits, strict=True):
                one.add(ours[0, taught_R], theirs[0, taught_R])
        self.heads.zero_()
        for pair, one in zip(self.taught, sums, strict=True):
            self.heads[pair] = one.correlation_ST().amax(1).clamp(min=0).square()
        # Sums on a GPU may differ in their last bits, and all ranks must teach the same pairs.
        self.heads.copy_(torch.tensor(gather(self.heads.tolist())[0]))
        check_weights(self.heads, data)
        return min(tokens)

    def restored(self) -> None:
        super().restored()
        self.taught = self.heads.any(1).nonzero().flatten().tolist()

    def forward(self, student: Signals, teacher: Signals | None, inputs: ModelInputs) -> Tensor:
        """The loss of a batch: a mean over the taught rows, haystacks and layer pairs. An entry
        without images counts as 0, so that a batch of two is two batches of one."""
        assert teacher is not None
        args, images = self.args, images_of(inputs)
        rows = self._looking_rows(teacher, inputs, images)
        own = self._keyed(images, student, teacher)
        step, own_BM = of_all_ranks(own, images)
        as_it_is = args.distractors == "none" and not args.reach
        if not (own if as_it_is else step).images.images:
            return torch.zeros((), device=inputs.input_ids_BL.device)
        if as_it_is:
            place, pool = as_shown(rows, images), own
        else:
            pool = with_bank(step, self.bank, args.reach)
            own_BM = pad(own_BM, (0, pool.images.images - step.images.images))
            slots = self._slots(pool.images.distinct)
            place = at_random_slots(
                rows,
                images.question_B,
                pool.images,
                own_BM,
                slots,
                torch.Generator().manual_seed(self.step),
                distractors=args.distractors != "none",
            )
        needle_BM = needles(inputs, place.own_BM) if args.target == "label" else None
        logits = self._logits(place, pool, student, teacher, live=step.images.images)
        weight_M = (1 + place.distance_M / place.length) ** args.gamma
        losses = [
            mean_by_entry(
                retrieval_loss(
                    ours,
                    *looked_for(theirs, place, args.second_needle, needle_BM),
                    self.heads[pair],
                    weight_M,
                ),
                rows.valid_BR,
            )
            for pair, (ours, theirs) in zip(self.taught, logits, strict=True)
        ]
        if self.bank is not None and self.training:
            self.bank.add(step.detached())
        return torch.stack(losses).mean()

    def _slots(self, images: int) -> int:
        """Slots of the virtual haystack at this step."""
        full, growth = max(self.args.reach, images), self.args.growth
        grown = min(1.0, self.progress / growth) if growth else 1.0
        return round(images + grown * (full - images))

    def _looking_rows(self, teacher: Signals, inputs: ModelInputs, images: BatchImages) -> Rows:
        """Those from which the teacher's layers of the taught pairs look for an image."""
        layers = dict.fromkeys(self.pairs[pair][1] for pair in self.taught)
        of_taught = teacher.only(Wanted(tuple(layers)))
        return looking_rows(of_taught, inputs, images, self.models.teacher_rotate, self.args.rows)

    def _keyed(self, images: BatchImages, student: Signals, teacher: Signals) -> KeyedImages:
        """The images of a batch with their keys in both models, by pair: calibration may change
        which teacher layer is in a pair, and the bank keeps its shape."""
        at = images.haystack_N, images.column_N
        keys = {}
        for pair, (s, t) in enumerate(self.pairs):
            keys[f"student.{pair}"] = student.qk[s].k[at]
            keys[f"teacher.{pair}"] = teacher.qk[t].k[at]
        return KeyedImages(plain(images), keys)

    def _logits(
        self,
        place: VirtualHaystack,
        pool: KeyedImages,
        student: Signals,
        teacher: Signals,
        live: int | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """Logits over images, by taught pair: ``[B, R, S, M]`` and ``[B, R, T, M]``.

        Args:
            live: how many of the first images have keys with a gradient; None: all.
        """
        found = []
        for pair in self.taught:
            s, t = self.pairs[pair]
            q_BLHD, k_NKD = student.qk[s].q, pool.keys[f"student.{pair}"]
            rotate = partial(self.models.rotate, layer=s)
            ours = place.logits(q_BLHD, k_NKD, rotate)
            if live is not None and live < pool.images.images:
                of_keys = place.logits(q_BLHD.detach(), k_NKD, rotate)
                live_BM = place.candidate_BM.clone()
                live_BM[:, live:] = False
                ours = at_one_level(ours, of_keys, live_BM)
            keys_NKD = pool.keys[f"teacher.{pair}"]
            teacher_rotate = partial(self.models.teacher_rotate, layer=t)
            theirs = place.logits(teacher.qk[t].q, keys_NKD, teacher_rotate)
            found.append((ours, theirs))
        return found
