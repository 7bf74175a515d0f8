"""Fixtures shared by all tests: the folder of real data files, when it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data files; skip, saying so, when it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"real data files are not at {folder}")
    return folder
