"""A pickle that makes a file when it is unpickled without care."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from campaign.world import Place


class Touch:
    """Unpickled without care, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def pickled(place: Place) -> bytes:
    content = pickle.dumps(Touch(place.marker), protocol=2)
    pickle.loads(content).close()
    assert place.marker.exists(), "it would not have run"
    place.marker.unlink()
    return content


def saved(place: Place, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": {"a": Touch(place.marker)}, "laid": {}}, file, **options)
    return file.getvalue()
