"""The spectrum of a model: statistics by rotary pair over haystacks.

Shape suffixes: B batch, L tokens, E haystacks, N layers, R rows of the question, H query heads, S
student heads, D head_dim, F rotary pairs.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from laid.common.errors import UserError
from laid.data.prompt import Batch
from laid.losses.head_mixing import HeadMixing, as_pairs, mixture
from laid.signals.model_signals import Wanted
from laid.spectrum.pair_statistics import (
    PairStatistics,
    RotaryPairs,
    asked_rows,
    normalised,
    pair_statistics,
    rotary_pairs,
)
from laid.vlm.vision_language_model import VLM

SIZES = (2, 10, 20)
"""Haystack sizes by default, those of training."""
Floats = NDArray[np.float64]
Context = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class MeasuredSpectrum:
    """A model's spectrum; ``PairStatistics`` says what each number is.

    Attributes:
        pairs: what RoPE turns.
        positions: the largest distance between two tokens of a haystack, in positions.
        sizes: the number of images of each haystack.
        query_NHF, usage_NHF, mean_NHF, variance_NHF: means over haystacks.
        usage_EF, variance_EF: by haystack, means over layers and heads; of the variance, its shares
            of the sum over pairs.
    """

    pairs: RotaryPairs
    positions: int
    sizes: list[int]
    query_NHF: Floats
    usage_NHF: Floats
    mean_NHF: Floats
    variance_NHF: Floats
    usage_EF: Floats
    variance_EF: Floats


@torch.no_grad()
def measure(vlm: VLM, batches: Iterable[Batch], forward: Context = nullcontext) -> MeasuredSpectrum:
    """The spectrum of a model over haystacks, of which one at a time is in memory.

    Args:
        batches: of one haystack each, with its answer, on the model's device.
        forward: the context that the model runs in.

    Raises:
        UserError: layers rotate differently.
    """
    if len(set(vlm.shape.kinds)) > 1:
        raise UserError(
            f"a spectrum of {vlm.family.title}: its layers are of several kinds "
            f"({', '.join(sorted(set(vlm.shape.kinds)))}), in which a rotary pair has different "
            "frequencies; expected a model whose layers rotate alike"
        )
    wanted = Wanted(layers=tuple(range(vlm.shape.layers)))
    sums: dict[str, Tensor] = {}
    by_haystack: dict[str, list[Tensor]] = {"usage": [], "variance": []}
    sizes: list[int] = []
    positions = 0
    for batch in batches:
        with forward():
            qk = vlm.signals(batch.inputs, wanted).qk
        rows = asked_rows(batch.inputs)
        found = [
            pair_statistics(qk[at], rows, partial(vlm.family.rotate, vlm.hf, layer=at))
            for at in wanted.layers
        ]
        stacked_NHF = _stacked(found)
        for name, x_NHF in stacked_NHF.items():
            sums[name] = sums.get(name, torch.zeros_like(x_NHF)) + x_NHF
        by_haystack["usage"].append(stacked_NHF["usage_HF"].mean((0, 1)))
        by_haystack["variance"].append(normalised(stacked_NHF["variance_HF"]).mean((0, 1)))
        positions = max(positions, int(rows.positions_3BL.max() - rows.positions_3BL.min()))
        sizes += [entry.size for entry in batch.entries]
    means = {name.replace("_H", "_NH"): x.numpy() / len(sizes) for name, x in sums.items()}
    shares = {f"{name}_EF": torch.stack(x).numpy() for name, x in by_haystack.items()}
    axes = len(rows.positions_3BL)
    pairs = rotary_pairs(vlm.rotate, axes, vlm.shape.head_dim, rows.positions_3BL.device)
    return MeasuredSpectrum(pairs, positions, sizes, **means, **shares)


def _stacked(layers: list[PairStatistics]) -> dict[str, Tensor]:
    """Each statistic as ``[N, H, F]``, on the CPU."""
    return {
        name: torch.stack([getattr(one, name) for one in layers]).cpu()
        for name in PairStatistics.__dataclass_fields__
    }


@torch.no_grad()
def mixed_queries(
    teacher: VLM, batches: Iterable[Batch], mixings: Mapping[tuple[int, int], HeadMixing]
) -> dict[tuple[int, int], Floats]:
    """For each layer pair ``[S, F]``: mean of |q_f| over the rows of the question, normalised over
    f, of the mixtures of teacher heads that student heads are aligned with (Eq. 3 and 6).

    Args:
        mixings: the mixing of queries, by (student layer, teacher layer).
    """
    wanted = Wanted(layers=tuple(sorted({t for _, t in mixings})))
    sums: dict[tuple[int, int], Tensor] = {}
    count = 0
    for batch in batches:
        qk = teacher.signals(batch.inputs, wanted).qk
        columns_R = asked_rows(batch.inputs).columns_BR[0]
        for pair, mixing in mixings.items():
            mixed_RSF = as_pairs(mixture(mixing.weights(), qk[pair[1]].q[:, columns_R])[0])
            found_SF = normalised(mixed_RSF.abs().double().mean(0)).cpu()
            sums[pair] = sums.get(pair, torch.zeros_like(found_SF)) + found_SF
        count += 1
    return {pair: x_SF.numpy() / count for pair, x_SF in sums.items()}
