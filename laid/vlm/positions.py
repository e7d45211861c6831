"""M-RoPE positions, computed before there is a model.

Shape suffixes as in ``laid/signals/model_inputs.py``.
"""

from functools import partial
from types import SimpleNamespace

from torch import Tensor
from transformers import Qwen2_5_VLModel


def get_position_ids(
    input_ids_BL: Tensor,
    mm_token_type_ids_BL: Tensor,
    image_grid_thw_I3: Tensor,
    merge_size: int,
) -> Tensor:
    """The temporal, height and width position of every token: ``position_ids_3BL``.

    Calls transformers' own ``Qwen2_5_VLModel.get_rope_index``. Of the model it reads nothing but
    two numbers of its configuration, so a stand-in that holds them takes the model's place, and
    the positions can be made in a data worker.

    Args:
        merge_size: patches merged into a visual token along each side (2 for all of Qwen2.5-VL).
    """
    # tokens_per_second scales video frames only; a haystack has none.
    vision = SimpleNamespace(spatial_merge_size=merge_size, tokens_per_second=1)
    model = SimpleNamespace(config=SimpleNamespace(vision_config=vision))
    model.get_vision_position_ids = partial(Qwen2_5_VLModel.get_vision_position_ids, model)
    positions_3BL, _ = Qwen2_5_VLModel.get_rope_index(
        model, input_ids_BL, mm_token_type_ids_BL, image_grid_thw=image_grid_thw_I3
    )
    return positions_3BL
