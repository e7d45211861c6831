"""The model families that laid distils, by ``config.model_type``."""

from laid.common.errors import UserError
from laid.vlm.families.family import Config, Family
from laid.vlm.families.gemma3 import Gemma3
from laid.vlm.families.internvl import InternVL
from laid.vlm.families.qwen2_5_vl import Qwen25VL
from laid.vlm.families.qwen2_vl import Qwen2VL
from laid.vlm.families.qwen3_vl import Qwen3VL, Qwen3VLMoe

_ALL: tuple[type[Family], ...] = (Qwen25VL, Qwen2VL, Qwen3VL, Qwen3VLMoe, InternVL, Gemma3)
FAMILIES = {family.model_type: family for family in _ALL}


def family_of(config: Config) -> Family:
    """The family of a model, bound to its configuration.

    Raises:
        UserError: laid has none of that ``model_type``.
    """
    if config.model_type not in FAMILIES:
        known = ", ".join(f"{name} ({family.title})" for name, family in FAMILIES.items())
        raise UserError(f"it is a {config.model_type} model: expected {known}")
    return FAMILIES[config.model_type](config)
