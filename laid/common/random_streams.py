"""Random streams named by what they are for, not by when they were asked for."""

import hashlib
import json

import numpy as np


def stream(*key: int | str) -> np.random.Generator:
    """The generator that belongs to ``key``, for instance ``stream(seed, "test", 20, 13)``.

    Equal keys give equal streams in every process, worker and order of calls; different keys give
    independent ones. Python's own ``hash`` is salted per process, hence SHA-256, whose first 128
    bits are the key of a Philox counter generator.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))
