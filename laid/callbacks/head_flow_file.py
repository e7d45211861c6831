"""``figures/head_flow.json`` of a run, as `laid.callbacks.head_flow` writes it."""

import json
from dataclasses import dataclass
from pathlib import Path

from laid.callbacks.head_flow_figure import TITLES
from laid.common.errors import UserError
from laid.common.json_codec import Json, from_json


@dataclass(frozen=True)
class HeadFlowFile:
    """``curves``: by model and by layer, one row a haystack size, one column a KV head."""

    sizes: list[int]
    curves: dict[str, dict[str, list[list[float]]]]
    per_size: int | None = None
    tokens: str | None = None
    mixing: Json | None = None

    def __post_init__(self) -> None:
        layers = [rows for of_model in self.curves.values() for rows in of_model.values()]
        if not (layers and self.curves.keys() & TITLES.keys()):
            raise UserError(f"curves has no layer of one of {', '.join(TITLES)}")
        for rows in layers:
            heads = {len(row) for row in rows}
            if len(rows) != len(self.sizes) or len(heads) != 1 or 0 in heads:
                raise UserError("curves: expected a row a size, and equally many heads in each")


def read_head_flow(path: Path) -> HeadFlowFile:
    """Raises ``UserError`` where the file is not what laid writes."""
    try:
        return from_json(HeadFlowFile, json.loads(path.read_bytes()))
    except ValueError as error:
        raise UserError(
            f"{path} is not what laid writes of a head flow ({error}): remove it, or train again"
        ) from error
