"""LoRA (Hu et al., 2022) on a model's decoder, by peft: small matrices learn, the rest stays."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from laid.common.errors import UserError
from laid.vlm.families.registry import family_of
from laid.vlm.model_loading import ModelArgs, load_model
from laid.vlm.model_paths import weights_fingerprint
from laid.vlm.weight_files import ADAPTER, is_adapter

MOST_RANK = 65_536
"""No matrix of a model has more rows."""


@dataclass
class LoraArgs:
    """LoRA: W x + (alpha / rank) B A x, of which A and B are trained; B begins at 0."""

    rank: int = 8
    """Rows of A and columns of B; 8 is the paper's."""
    alpha: int = 16
    """alpha / rank weighs the adapter's output; the paper does not give it, twice the rank is
    usual."""
    dropout: float = 0.0
    """Share of the adapter's input that is set to 0 in training. Above 0, a resumed run draws
    others than an uninterrupted one."""
    target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"]
    )
    """Linear layers of the decoder that get an adapter, in all its layers: q_proj, k_proj, v_proj,
    o_proj, gate_proj, up_proj, down_proj. The default is attention, where the long window is lost
    and where queries and keys are aligned; the paper does not say. The vision tower gets none."""

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= MOST_RANK:
            raise UserError(f"model.lora.rank {self.rank}: expected 1 to {MOST_RANK}")
        if self.alpha < 1:
            raise UserError(f"model.lora.alpha {self.alpha}: expected 1 or more")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.lora.dropout {self.dropout}: expected 0 to below 1")
        if not self.target_modules:
            raise UserError("model.lora.target_modules is empty: name some, or leave model.lora")


def add_lora(hf: PreTrainedModel, args: LoraArgs) -> None:
    """Puts adapters into the decoder's linear layers, in place, and freezes the decoder's weights.

    The model's outputs stay exactly what they were. Adapters are float32 whatever the weights are.
    Of the vision tower, ``ModelArgs.freeze_vision`` still decides.

    Raises:
        UserError: a target module that the decoder does not have.
    """
    # Not the whole model: the vision tower's layers bear some of the same names.
    decoder = family_of(hf.config).decoder(hf)
    linear = [name for name, module in decoder.named_modules() if isinstance(module, nn.Linear)]
    names = {name.rpartition(".")[2] for name in linear}
    if unknown := [name for name in args.target_modules if name not in names]:
        raise UserError(
            f"model.lora.target_modules {unknown}: the decoder has no such linear layer; it has "
            f"{', '.join(sorted(names))}"
        )
    decoder.requires_grad_(False)
    hf.get_output_embeddings().requires_grad_(False)
    config = LoraConfig(
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=args.dropout,
        target_modules=list(args.target_modules),
    )
    inject_adapter_in_model(config, decoder, ADAPTER)
    for parameter in adapters(decoder):
        parameter.data = parameter.data.float()
    if not hf.get_input_embeddings().weight.is_meta:
        begin_adapters(hf)


@torch.no_grad()
def begin_adapters(
    hf: PreTrainedModel, put: Callable[[Tensor, Tensor], object] = Tensor.copy_
) -> None:
    """Sets adapters to what they begin with: A as peft draws it, by torch's global generator, B 0.

    Args:
        put: writes whole values into a parameter, which may be sharded.
    """
    for name, parameter in hf.named_parameters():
        if is_adapter(name):
            value = torch.zeros(parameter.shape)
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(value, a=math.sqrt(5))
            put(parameter, value)


def adapters(module: nn.Module) -> list[nn.Parameter]:
    """The A and B of all adapters; none without LoRA."""
    return [p for name, p in module.named_parameters() if is_adapter(name)]


def merged(args: ModelArgs, lora: LoraArgs, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights W + (alpha / rank) B A in float32, by transformers' own names.

    Args:
        args: the model beneath the adapters, whose weights are read.
        state: what a checkpoint holds of the student, by the names of the model with adapters.

    Raises:
        UserError: the state is not that of such adapters, or has values that are not finite.
    """
    hf = load_model(
        replace(args, dtype="float32", attn_implementation="sdpa", activation_checkpointing=False)
    )
    add_lora(hf, lora)
    expected = {name for name, p in hf.named_parameters() if p.requires_grad}
    if odd := sorted(expected ^ state.keys()):
        raise UserError(
            f"the checkpoint's adapters are not those of {lora} on {args.path!r}: {len(odd)} "
            f"tensors are on one side only, such as {odd[0]}"
        )
    try:
        hf.load_state_dict(state, strict=False)
    except RuntimeError as reason:
        raise UserError(f"the checkpoint's adapters do not fit {args.path!r}: {reason}") from None
    for name, layer in list(hf.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge(safe_merge=True)
            hf.set_submodule(name, layer.get_base_layer())
    return {name: tensor.detach() for name, tensor in hf.state_dict().items()}


def base_of(args: ModelArgs) -> dict[str, Any]:
    """What a checkpoint of adapters says of the weights beneath them."""
    weights = None if args.random_weights else weights_fingerprint(args.path, args.revision)
    return {"path": args.path, "revision": args.revision, "weights": weights}


def check_base(now: dict[str, Any], then: dict[str, Any] | None) -> None:
    """Refuses weights that have changed since adapters were trained on them.

    Another path is not refused: it was typed, and the command line says so.

    Args:
        now: ``base_of`` the student as it is.
        then: ``base_of`` the student that was trained; None without LoRA.

    Raises:
        UserError: path and revision are the same, and the weights are others.
    """
    if not then or any(now[key] != then[key] for key in ("path", "revision")):
        return
    if now["weights"] != then["weights"]:
        raise UserError(
            f"the weights of {now['path']!r} have changed since the checkpoint's adapters were "
            f"trained on them ({then['weights']}, now {now['weights']}): give the old ones with "
            "--model.student.path or --model.student.revision"
        )
