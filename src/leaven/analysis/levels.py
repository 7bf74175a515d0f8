"""A cell of `vary` as canonical JSON -> its values and its words ("size=small, learning_rate=0.004").
Not covered: choosing the cells in which a contrast is taken (findings.py).
"""

from __future__ import annotations

import json
from typing import Any

from leaven.errors import DataError


def level_cell(level: str) -> dict[str, Any]:
    """Return the vary cell behind its canonical JSON; {} for a study that varies nothing."""
    value = json.loads(level) if level else {}
    if not isinstance(value, dict):
        raise DataError(f"level: expected the JSON of a mapping, found {level!r}")
    return value


def level_words(level: str) -> str:
    """Return a vary cell as words: "size=small, lr=0.004"."""
    return ", ".join(f"{k}={v}" for k, v in sorted(level_cell(level).items()))


def at_level(level: str) -> str:
    """Return " @ size=small" for a vary cell, "" for none."""
    return f" @ {level_words(level)}" if level_cell(level) else ""
