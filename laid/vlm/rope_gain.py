"""The learnable RoPE response gain: a factor on each head and rotary pair of the queries.

The paper's abstract names it, and its Methods do not define it; docs/methods.md has ours.

Shape suffixes: B batch, L tokens, H query heads, D head_dim, F = D / 2 rotary pairs, of which pair
f is the dimensions f and f + F.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from laid.common.errors import UserError
from laid.distributed.sharded_tensors import full_tensor
from laid.vlm.families.family import Family
from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import ModelArgs, empty_model
from laid.vlm.weight_files import GAIN, is_gain


@dataclass
class RopeGainArgs:
    """One positive gain for each head and rotary pair of the queries before RoPE, initially 1."""

    layers: Literal["all"] | list[int] = "all"
    """Decoder layers whose queries have gains: all, or a list of layers from 0, such as [0, 27]."""

    def __post_init__(self) -> None:
        if self.layers == "all":
            return
        layers = self.layers if isinstance(self.layers, list) else []
        if not layers or any(type(layer) is not int for layer in layers):
            raise UserError(
                f"model.rope_gain.layers {self.layers!r}: expected all, or a list of layers such "
                "as [0, 27]"
            )
        if len(set(layers)) < len(layers):
            raise UserError(f"model.rope_gain.layers {self.layers}: a layer is given twice")

    def of(self, count: int) -> list[int]:
        """The layers that are meant in a decoder of ``count`` layers.

        Raises:
            UserError: it does not have one of them.
        """
        if self.layers == "all":
            return list(range(count))
        if odd := [layer for layer in self.layers if layer not in range(count)]:
            raise UserError(
                f"model.rope_gain.layers {odd}: the student has layers 0 to {count - 1}"
            )
        return sorted(self.layers)


class RopeGain(nn.Module):
    """The gains of one layer; their logarithms are trained, in float32, from 0.

    A pair is multiplied by one number, which commutes with RoPE: the rotation turns it and keeps
    its length.
    """

    def __init__(self, heads: int, head_dim: int, device: torch.device):
        super().__init__()
        self.log_gain_HF = nn.Parameter(torch.zeros(heads, head_dim // 2, device=device))

    def forward(self, q_BLHD: Tensor) -> Tensor:
        """Queries with their gains, in their dtype."""
        return (q_BLHD * _gain_HD(self.log_gain_HF)).to(q_BLHD.dtype)


def _gain_HD(log_gain_HF: Tensor) -> Tensor:
    # Sharded training may gather them in bfloat16, which rounds a logarithm near 0 less than it
    # would round a gain near 1.
    return log_gain_HF.float().exp().repeat(1, 2)


def add_gains(hf: PreTrainedModel, args: RopeGainArgs) -> None:
    """Puts gains on the queries of the chosen decoder layers, in place; outputs do not change yet.

    Each becomes a child ``rope_gain`` of the layer's attention. With LoRA, adapters are added
    before, so that gains multiply their part too.

    Raises:
        UserError: a layer that the decoder does not have, or a family whose gains would not fold.
    """
    family = family_of(hf.config)
    for layer, attention, projection in _places(hf, family, args):
        linear = layer.get_submodule(projection)
        gain = RopeGain(family.shape.heads, family.shape.head_dim, next(linear.parameters()).device)
        layer.get_submodule(attention).add_module(GAIN, gain)
        linear.register_forward_hook(partial(_multiply, family, gain))


def _multiply(family: Family, gain: RopeGain, _: nn.Module, __: object, out: Tensor) -> Tensor:
    return gain(family.split_heads(out)).flatten(2)


def _places(
    hf: PreTrainedModel, family: Family, args: RopeGainArgs
) -> list[tuple[nn.Module, str, str]]:
    """The chosen layers, each with the names of its attention and of its projection to queries."""
    layers, found = family.layers(hf), []
    for number in args.of(len(layers)):
        names = {module: name for name, module in layers[number].named_modules()}
        projection = names[family.q_projection(layers[number])]
        found.append((layers[number], projection.rpartition(".")[0], projection))
    return found


@torch.no_grad()
def begin_gains(hf: PreTrainedModel) -> None:
    """Sets all gains to 1, of a model that was on the meta device."""
    for parameter in gain_parameters(hf):
        parameter.zero_()


def gain_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The gains' logarithms; none without gains."""
    return [p for name, p in module.named_parameters() if is_gain(name)]


@torch.no_grad()
def gains_of(hf: PreTrainedModel) -> dict[int, Tensor]:
    """``gain_HF`` of each decoder layer that has gains; all ranks of a sharded model call it."""
    return {
        number: full_tensor(parameter).float().exp()
        for number, layer in enumerate(family_of(hf.config).layers(hf))
        for parameter in gain_parameters(layer)
    }


def folded(
    args: ModelArgs, gain: RopeGainArgs, state: dict[str, Tensor], logs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The weights of a plain model whose queries have the gains already.

    Row i of a head's part of ``q_proj`` (weight and bias) makes dimension i of its query, so it is
    multiplied by that dimension's gain.

    Args:
        args: the model; only its configuration is read.
        state: its weights by transformers' own names, with adapters merged.
        logs: the gains' logarithms, as a checkpoint has them.

    Returns:
        ``state`` with the weights of the projections replaced, in float32.

    Raises:
        UserError: the logarithms are not those of such gains.
    """
    hf = empty_model(args)
    family = family_of(hf.config)
    shape = (family.shape.heads, family.shape.head_dim // 2)
    names = {module: name for name, module in hf.named_modules()}
    state, logs = dict(state), dict(logs)
    for layer, attention, projection in _places(hf, family, gain):
        log_gain_HF = logs.pop(f"{names[layer]}.{attention}.{GAIN}.log_gain_HF", None)
        if log_gain_HF is None or log_gain_HF.shape != shape:
            raise UserError(
                f"the checkpoint's gains are not those of {gain} on {args.path!r}: expected "
                f"{list(shape)} of {names[layer]}, found "
                f"{'none' if log_gain_HF is None else list(log_gain_HF.shape)}"
            )
        rows = _gain_HD(log_gain_HF).flatten()
        for name, _ in layer.get_submodule(projection).named_parameters():
            key = f"{names[layer]}.{projection}.{name}"
            if (value := state.get(key)) is not None:  # else write_model says what is missing
                state[key] = value.float() * rows.view(-1, *[1] * (value.ndim - 1))
    if logs:
        raise UserError(
            f"the checkpoint has gains that {gain} has not on {args.path!r}: {min(logs)}"
        )
    return state
