"""Graphs are checked before anything runs, and step facts are read without importing."""

from __future__ import annotations

import sys

import pytest

from leaven.engine.graph import Node, StepFacts, descendants, in_order, step_facts
from leaven.errors import StepError, StudyError


def node(name: str, *parents: str, links=()) -> Node:
    return Node(name, "toy_steps:write", {}, {f"in-{p}": p for p in parents}, links)


def test_order_respects_inputs_and_otherwise_the_given_order():
    graph = [node("d", "b", "c"), node("b", "a"), node("c", "a"), node("a"), node("z")]
    assert [n.id for n in in_order(graph)] == ["a", "b", "c", "d", "z"]
    assert descendants(in_order(graph), ["b"]) == {"d"}
    deep = [node(str(i), *([str(i + 1)] if i < 5000 else [])) for i in range(5001)]
    assert [n.id for n in in_order(deep)][0] == "5000"


@pytest.mark.parametrize("graph, words", [
    ([node("a"), node("a")], "two steps are called 'a'"),
    ([node("a", "b")], "reads 'b', but no step"),
    ([node("a", "b"), node("b", "c"), node("c", "a")], "a cycle"),
    ([node("a", "a")], "a cycle"),
    ([node("a", links=("x",)), node("b", links=("x",))], "claimed by 'a' and 'b'"),
    ([node("a", links=("x",)), node("b", links=("x/y",))], "lies inside link 'x'"),
    ([node("a", links=("../x",))], "below the run folder"),
    ([node("a", links=("/x",))], "below the run folder"),
    ([node("../a")], "expected a step name"),
])
def test_graphs_that_cannot_run_are_refused(graph, words):
    with pytest.raises(StudyError, match=words):
        in_order(graph)


def test_step_facts_import_nothing(tmp_path, monkeypatch):
    (tmp_path / "explosive.py").write_text(
        "raise RuntimeError('imported')\nversion = 3\n"
        "@step(version=7, deterministic=False)\ndef a(spec, inputs, out, ctx): ...\n"
        "@leaven.core.step.step(version=2)\ndef b(spec, inputs, out, ctx): ...\n"
        "@step(version=version)\ndef c(spec, inputs, out, ctx): ...\n"
        "def d(spec, inputs, out, ctx): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert step_facts("explosive:a") == StepFacts(7, False) and step_facts("explosive:b") == StepFacts(2)
    wrong = {"c": "literal values", "d": "not marked", "e": "defines no function", "": "expected 'package.module"}
    for name, words in wrong.items():
        with pytest.raises(StepError, match=words):
            step_facts(f"explosive:{name}")
    with pytest.raises(StepError, match="cannot be found|importable module"):
        step_facts("no.such.module:f")
    assert "explosive" not in sys.modules
