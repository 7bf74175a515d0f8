"""How much each condition trained: counted from order tables, and said when it is not the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaven.analysis.amounts import amounts_finding
from leaven.core.tables import ORDER, write_table


def order(folder: Path, n_tokens: int, slots: int = 6, dropped: int = 0) -> Path:
    rows = [
        {
            "stage": "sft",
            "step": i // 2,
            "slot": i % 2,
            "source": "s",
            "example": str(i),
            "format": "f",
            "weight": float(i >= dropped),
            "start_token": 0,
            "n_tokens": n_tokens,
            "n_learned_tokens": n_tokens // 2,
            "pack": i,
        }
        for i in range(slots)
    ]
    write_table(folder / "order.parquet", rows, ORDER)
    return folder


def entries(*conditions: str) -> list[dict[str, object]]:
    return [{"condition": c, "level": "{}", "seed": s, "input": f"{c}{s}"} for c in conditions for s in (0, 1)]


def test_matched_conditions_carry_no_warning(tmp_path: Path) -> None:
    inputs = {f"{c}{s}": order(tmp_path / f"{c}{s}", 10) for c in "ab" for s in (0, 1)}
    found = amounts_finding(entries("a", "b"), inputs, lambda e: e["level"])
    assert found.warnings == () and found.seeds == (0, 1)
    assert found.data["rows"][0] == {
        "condition": "a",
        "level": "{}",
        "stage": "sft",
        "steps": 3,
        "examples": 6,
        "tokens": 60,
        "learned_tokens": 30,
        "seeds": [0, 1],
    }


@pytest.mark.parametrize(
    ("n_tokens", "dropped", "words"),
    [(20, 0, ["tokens (a 60, b 120)", "learned tokens"]), (10, 2, ["examples (b 4, a 6)"])],
)
def test_unequal_amounts_are_said(tmp_path: Path, n_tokens: int, dropped: int, words: list[str]) -> None:
    inputs = {f"a{s}": order(tmp_path / f"a{s}", 10) for s in (0, 1)} | {
        f"b{s}": order(tmp_path / f"b{s}", n_tokens, dropped=dropped) for s in (0, 1)
    }
    (warning,) = amounts_finding(entries("a", "b"), inputs, lambda e: e["level"]).warnings
    assert (
        warning.startswith("imbalanced: in stage sft") and all(w in warning for w in words) and "steps" not in warning
    )


def test_failed_runs_are_left_out(tmp_path: Path) -> None:
    found = amounts_finding(entries("a", "b"), {"a0": order(tmp_path / "a0", 10)}, lambda e: e["level"])
    assert [r["condition"] for r in found.data["rows"]] == ["a"]
    assert amounts_finding([], {}, str).data == {}
