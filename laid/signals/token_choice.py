"""Which tokens of a haystack a loss term compares, and a cache of the teacher holds.

Shape suffixes: B batch, L tokens, R chosen tokens of a haystack, H heads, D head_dim.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from laid.common.errors import UserError
from laid.signals.model_inputs import ModelInputs


@dataclass(frozen=True)
class Tokens:
    """A choice of tokens.

    Attributes:
        every: all of them, whatever the others say.
        question: those after the last image, the answer among them; none of an entry without
            images.
        sample: how many are drawn, by the entry's id alone: the same in every epoch, for teacher
            and student, and fewer are a part of more.
    """

    every: bool = False
    question: bool = False
    sample: int = 0

    def __or__(self, other: "Tokens") -> "Tokens":
        """What either chooses."""
        if self.every or other.every:
            return ALL
        return Tokens(False, self.question or other.question, max(self.sample, other.sample))

    def __str__(self) -> str:
        if self.every:
            return "all tokens"
        drawn = [f"{self.sample:,} drawn tokens"] * bool(self.sample)
        return (
            " and ".join([*drawn, *["the tokens after the last image"] * self.question]) or "none"
        )

    def count(self, tokens: float, question: float) -> float:
        """How many they are of a haystack's tokens, ``question`` of which follow its last image;
        drawn ones that do are expected in proportion."""
        if self.every:
            return tokens
        rest = max(tokens - question, 0) if self.question else tokens
        drawn = min(self.sample, tokens) * rest / tokens
        return drawn + question * self.question

    def mask(self, inputs: ModelInputs) -> Tensor:
        """``mask_BL``: whether a token is chosen; padding never is."""
        there_BL = inputs.attention_mask_BL.bool()
        if self.every:
            return there_BL
        mask_BL = torch.zeros_like(there_BL)
        if self.question:
            column_L = torch.arange(there_BL.shape[1], device=there_BL.device)
            last_B1 = inputs.last_visual_B1
            mask_BL = there_BL & (column_L > last_B1) & (last_B1 >= 0)
        if self.sample:
            place_BL = _drawn(inputs).masked_fill(~there_BL, _LAST).argsort(dim=1, stable=True)
            rank_BL = place_BL.argsort(dim=1)
            mask_BL = mask_BL | (there_BL & (rank_BL < self.sample))
        return mask_BL

    def columns(self, inputs: ModelInputs) -> tuple[Tensor, Tensor]:
        """The chosen tokens' ``columns_BR`` in the order of the text, and ``valid_BR``: False for
        what fills up a haystack that has fewer than another."""
        mask_BL = self.mask(inputs)
        only_drawn = self.sample and not (self.every or self.question)
        # Of drawn tokens the most is known without waiting for the device.
        most = min(self.sample, mask_BL.shape[1]) if only_drawn else int(mask_BL.sum(1).max())
        columns_BR = (~mask_BL).int().argsort(dim=1, stable=True)[:, :most]
        return columns_BR, mask_BL.gather(1, columns_BR)


ALL, QUESTION = Tokens(every=True), Tokens(question=True)


def tokens_named(text: str, setting: str) -> Tokens:
    """The choice that a setting gives: all, question or sample:N.

    Raises:
        UserError: it is none of them.
    """
    kind, _, count = text.partition(":")
    if text in ("all", "question"):
        return ALL if text == "all" else QUESTION
    if kind == "sample" and count.isdecimal() and 0 < int(count) < 2**31:
        return Tokens(sample=int(count))
    raise UserError(f"{setting} {text!r}: expected all, question, or sample:N with N of 1 or more")


def at_columns(x_BLHD: Tensor, columns_BR: Tensor) -> Tensor:
    """``x_BRHD`` of some tokens."""
    index_BRHD = columns_BR[..., None, None].expand(-1, -1, *x_BLHD.shape[2:])
    return x_BLHD.gather(1, index_BRHD)


_LAST = 2**62
_LOW = 2**32 - 1


def _drawn(inputs: ModelInputs) -> Tensor:
    """A number for each token, from its haystack's entry and its place in it alone, the same on
    every device (32 bits of a mix of multiplications and shifts)."""
    assert len(inputs.entry_ids) == len(inputs.input_ids_BL), "haystacks of no entries"
    device = inputs.input_ids_BL.device
    digests = [hashlib.blake2b(name.encode(), digest_size=4) for name in inputs.entry_ids]
    seeds = [int.from_bytes(digest.digest(), "big") for digest in digests]
    seed_B1 = torch.tensor(seeds).to(device, non_blocking=True)[:, None]
    column_L = torch.arange(inputs.input_ids_BL.shape[1], device=device)
    x_BL = (seed_B1 + column_L * 0x9E3779B9) & _LOW
    for factor in (0x7FEB352D, 0x46A72B1D):  # below 2^31, so that no product leaves 64 bits
        x_BL = (((x_BL >> 16) ^ x_BL) * factor) & _LOW
    return (x_BL >> 16) ^ x_BL
