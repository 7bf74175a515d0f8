"""Named random streams: every random draw comes from `rng(seed, purpose, ...)`, never from global state.

Streams are named by purpose, stage and seed, never by condition or study, so that conditions pair and studies share artifacts.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np


def stream_seed(seed: int, *names: str | int) -> int:
    """Return a 64-bit integer that depends only on `seed` and the ordered `names`."""
    text = "\x1f".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def rng(seed: int, *names: str | int) -> np.random.Generator:
    """Return numpy's Philox generator for the stream called `names` under `seed`."""
    return np.random.Generator(np.random.Philox(stream_seed(seed, *names)))


def python_rng(seed: int, *names: str | int) -> random.Random:
    """Return a `random.Random` for the same kind of stream (generators of text read better with it)."""
    return random.Random(stream_seed(seed, *names))
