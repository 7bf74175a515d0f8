"""A graph of toy steps through the public `run`: caching, sharing, failures, damage, secrets."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from leaven.core.hashing import tree_digest
from leaven.engine.graph import FileInput, Node, input_digest
from leaven.engine.run import run
from leaven.engine.status import read_status
from leaven.engine.store import Store, follow
from leaven.errors import StudyError


def node(name: str, step: str = "write", *, inputs=None, links=(), threads=1, **spec) -> Node:
    if step in ("write", "slow"):
        spec.setdefault("text", name)
    return Node(name, f"toy_steps:{step}", spec, inputs or {}, links, threads)


@pytest.fixture
def go(store, tmp_path):
    def start(*nodes, **options):
        return run(nodes, store, run_dir=tmp_path / "run", workers=2, resume="leaven run toy.yaml", **options)

    return start


def text(tmp_path: Path, link: str) -> str:
    return (follow(tmp_path / "run" / link) / "text.txt").read_text()


def test_builds_links_and_finds_everything_again(go, tmp_path):
    nodes = [node("a", links=("x/a",)), node("b", inputs={"from": "a"}, links=("x/b", "y/b"))]
    first = go(*nodes)
    assert (first.done, first.cached, first.failed, first.exit_code) == (("a", "b"), (), {}, 0)
    assert text(tmp_path, "y/b") == "b|a"
    assert (tmp_path / "run/x/a").is_symlink() and not Path((tmp_path / "run/x/a").readlink()).is_absolute()
    second = go(*nodes)
    assert (second.done, second.cached) == ((), ("a", "b"))
