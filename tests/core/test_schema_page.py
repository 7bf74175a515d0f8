"""docs/artifacts.md is what the schemas say."""

from __future__ import annotations

from pathlib import Path

from leaven.core import tables
from leaven.core.schema_page import page, schemas

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_committed_page_is_current() -> None:
    assert (DOCS / "artifacts.md").read_text(encoding="utf-8") == page(), "renew it: make docs"


def test_every_schema_is_explained() -> None:
    assert len(schemas()) == sum(isinstance(v, dict) and k.isupper() for k, v in vars(tables).items())
    assert all(text for _, text in schemas().values())
