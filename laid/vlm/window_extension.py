"""Training-free extension of the window: which one, and its settings; YaRN.

Neither changes a weight. They are the baselines that need no teacher (docs/window.md).
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from laid.common.errors import UserError
from laid.vlm.families.family import Config
from laid.vlm.families.registry import family_of

Extension = Literal["none", "yarn", "self-extend"]


@dataclass
class YarnArgs:
    """YaRN (Peng et al., 2023): slow rotary frequencies are divided by a factor."""

    factor: float | None = None
    """How many times longer the window is to become; at least 1."""
    original_length: int | None = None
    """Positions (not tokens) of the window that the model has; 32768 for Qwen2.5-VL. Not read from
    the model, whose max_position_embeddings, 128000, is not the length that it was trained on."""


@dataclass
class SelfExtendArgs:
    """SelfExtend (Jin et al., 2024): far tokens share positions in groups."""

    group: int | None = None
    """How many positions become one beyond the window (G); 1 changes nothing."""
    window: int | None = None
    """Tokens behind each token, itself among them, that keep their positions (W). An image of
    640 x 480 is 393 tokens."""
    mapping: Literal["base", "axis"] = "base"
    """What is grouped of a position of M-RoPE (where positions have one row, both are the same).
    base: the place where the image begins, so that height and width inside it stay as they are;
    axis: time, height and width, each by itself."""


Settings = YarnArgs | SelfExtendArgs

TRAINING_FREE = (
    "model.window_extension is training-free: it is for test, validate and predict. Train without "
    "it, then `laid test --ckpt_path RUN --model.window_extension …`"
)


def chosen_extension(
    extension: Extension, yarn: YarnArgs | None, self_extend: SelfExtendArgs | None
) -> Settings | None:
    """The settings of the extension that is chosen, checked; None for ``none``.

    Raises:
        UserError: settings of one that is not chosen, a value that is missing or out of range, or
            an extension of another name.
    """
    settings: dict[str, Settings | None] = {"yarn": yarn, "self-extend": self_extend}
    if extension != "none" and extension not in settings:
        raise UserError(
            f"model.window_extension {extension!r}: expected one of none, {', '.join(settings)}"
        )
    for name, args in settings.items():
        if name != extension and args is not None:
            raise UserError(
                f"model.{_key(name)} is set, but model.window_extension is {extension}: set it to "
                f"{name}, or leave model.{_key(name)} out"
            )
    if extension == "none":
        return None
    args = settings[extension] or (YarnArgs() if extension == "yarn" else SelfExtendArgs())
    for name, value in asdict(args).items():
        where = f"model.{_key(extension)}.{name}"
        if value is None:
            raise UserError(f"{where} is missing: {extension} needs it (docs/window.md says how)")
        # Positions are 64-bit integers; NaN is not at least 1 either.
        if name != "mapping" and not 1 <= value < 2**31:
            raise UserError(f"{where} {value}: expected at least 1 and less than 2^31")
    if isinstance(args, SelfExtendArgs) and args.mapping not in ("base", "axis"):
        raise UserError(f"model.self_extend.mapping {args.mapping!r}: expected base or axis")
    return args


def describe(model: dict[str, Any]) -> dict[str, Any]:
    """What the identity of a test says of the window in a module's settings.

    Nothing when there is no extension, so that tests without one stay the tests that they were.
    """
    extension = model["window_extension"]
    if extension == "none":
        return {}
    return {"window": {"extension": extension, **model[_key(extension)]}}


def set_rotation(config: Config, args: Settings) -> None:
    """Makes a configuration one of YaRN, or of the rotation that SelfExtend asks, before the model
    is built from it; M-RoPE stays M-RoPE.

    Both take the place of dynamic NTK, itself an extension without training, which is default RoPE
    within ``max_position_embeddings``: SelfExtend asks for near and far positions apart, and each
    would get frequencies of its own beyond.

    The settings are replaced rather than added to: what a hub's configuration has beside them (a
    ``type`` of transformers 4) would contradict ``rope_type``. YaRN's original length has to be
    given, since transformers takes ``max_position_embeddings`` for it silently.

    Raises:
        UserError: the family is without that extension, or YaRN meets another rotary embedding
            than the default one or dynamic NTK.
    """
    name = "yarn" if isinstance(args, YarnArgs) else "self-extend"
    family, text = family_of(config), config.text_config
    if (reason := family.not_extended.get(name)) is not None:
        raise UserError(f"model.window_extension {name}: not for {family.title}: {reason}")
    rope = text.rope_parameters
    kind, kept = rope["rope_type"], {key: rope[key] for key in family.rope_keys}
    if isinstance(args, SelfExtendArgs):
        if kind == "dynamic":
            text.rope_parameters = {"rope_type": "default", **kept}
        return
    assert args.factor is not None
    if kind not in ("default", "dynamic"):
        raise UserError(
            f"model.window_extension yarn: the model's rope_type is {kind} already; expected "
            "default or dynamic"
        )
    text.rope_parameters = {
        "rope_type": "yarn",
        **kept,
        "factor": float(args.factor),
        "original_max_position_embeddings": args.original_length,
    }


def _key(extension: str) -> str:
    return extension.replace("-", "_")
