"""CodeBLEU against checked-in numbers of the package `codebleu`, and by hand where a tree can be read off."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("tree_sitter_python", reason="CodeBLEU needs the extra eval")

from leaven.errors import DataError
from leaven.evals.codebleu import codebleu, data_flow, normalised, syntax_match

HERE = Path(__file__).parent
EXPECTED = json.loads((HERE / "codebleu_reference.json").read_text())["scores"]


def _fixtures() -> ModuleType:
    module_spec = importlib.util.spec_from_file_location("codebleu_reference", HERE / "codebleu_reference.py")
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


PAIRS = _fixtures().PAIRS


@pytest.mark.parametrize("name", list(EXPECTED))
def test_equals_the_package(name: str) -> None:
    chosen = list(PAIRS.values()) if name == "corpus" else [PAIRS[name]]
    found = codebleu([refs for refs, _ in chosen], [hyp for _, hyp in chosen])
    wanted = EXPECTED[name]
    assert (found.ngram, found.weighted_ngram, found.syntax, found.dataflow, found.total) == pytest.approx(
        tuple(
            wanted[k]
            for k in ("ngram_match_score", "weighted_ngram_match_score", "syntax_match_score", "dataflow_match_score", "codebleu")
        ),
        abs=1e-12,
    )


def test_identical_is_1_and_renaming_keeps_syntax_and_data_flow() -> None:
    code = PAIRS["identical"][1]
    assert codebleu([[code]], [code]).total == pytest.approx(1)
    renamed = codebleu([[code]], [PAIRS["renamed"][1]])
    assert (renamed.syntax, renamed.dataflow) == (1, 1) and renamed.ngram < 0.5


def test_syntax_by_hand() -> None:
    # inner nodes of `x = 1`: module, expression statement, assignment; of `f(x)`: module, expression statement, call, arguments
    assert syntax_match([("x = 1", "y = 2")]) == 1
    assert syntax_match([("x = 1", "f(x)")]) == 0
    assert syntax_match([("f(x)\nx = 1", "f(x)")]) == pytest.approx(3 / 6)


def test_data_flow_by_hand() -> None:
    flow = data_flow("a = 1\nb = a")
    assert [(e.name, e.relation, e.sources) for e in flow] == [
        ("a", "computedFrom", ["1"]),
        ("1", "comesFrom", []),
        ("b", "computedFrom", ["a"]),
        ("a", "comesFrom", ["a"]),
    ]
    assert normalised(flow) == normalised(data_flow("x = 1\ny = x")) != normalised(data_flow("x = 1\ny = 1"))


def test_names_are_read_where_they_stand_beside_other_letters() -> None:
    flow = data_flow('s = "äöü"; t = s')
    assert [e.name for e in flow] == ["s", '"äöü"', "t", "s"]


def test_any_text_has_a_score() -> None:
    for text in ("", "((((", "\x00", "def", "\ud800".encode("utf-8", "replace").decode(), "x = (" * 400):
        assert 0 <= codebleu([["x = 1"]], [text]).total <= 1
    with pytest.raises(DataError, match="found 1 and 0"):
        codebleu([["x"]], [])
