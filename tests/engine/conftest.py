"""What the engine's tests share: toy steps that workers can import, a store, and a run with short names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def toy_steps(monkeypatch):
    """Let this process and its workers import `toy_steps`."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH", "")])))


@pytest.fixture
def store(tmp_path):
    from leaven.engine.store import Store

    return Store(tmp_path / "store")
