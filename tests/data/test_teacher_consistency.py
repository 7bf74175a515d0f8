"""Self-consistency by execution: right, wrong, hanging and broken programs, one verdict per test, and verdicts that outlive a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leaven.core.sandbox import Limits
from leaven.data.consistency import Program, Verdicts, each_alone, judge, limits_from
from leaven.data.funnel import TABLE_10, Erratum, errata, funnel, funnel_text
from leaven.errors import DataError, Interrupted

LIMITS = Limits(cpu_s=0.5, wall_s=2.0)
TESTS = ("assert f(1) == 2", "assert f(2) == 4", "assert f(0) == 0")
PLANTED = {
    "pass": Program("def f(n):\n    return 2 * n\n", TESTS),
    "fail": Program("def f(n):\n    return n + 1\n", TESTS),
    "error": Program("def f(n):\n    return 2 * m\n", TESTS),
    "timeout_cpu": Program("def f(n):\n    while True:\n        pass\n", TESTS),
}


def test_planted_programs_get_their_tags(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path / "v.jsonl", LIMITS)
    found, executed = judge(PLANTED.values(), verdicts, workers=2)
    assert [f.status for f in found] == list(PLANTED) and executed == 4
    assert [f.consistent for f in found] == [True, False, False, False]
    assert found[0].tests == ("pass",) * 3 and found[1].tests == ("pass", "fail", "fail") and found[2].tests == ("error",) * 3
    assert found[3].tests == ()  # a program that hangs is not run once more for every test
    again, executed = judge(PLANTED.values(), Verdicts(tmp_path / "v.jsonl", LIMITS))
    assert again == found and executed == 0
    _, executed = judge(PLANTED.values(), Verdicts(tmp_path / "v.jsonl", Limits(cpu_s=0.4)))
    assert executed == 4  # other limits are another question


def test_prelude_entry_point_and_state_between_tests(tmp_path: Path) -> None:
    prelude = "from typing import *\ndef helper(xs):\n    return xs[0]"
    program = Program("def f(xs: List[int]):\n    return helper(xs)\n", ("assert f([1]) == 1",), prelude=prelude)
    check = Program("class A:\n    def g(self, n):\n        return n\n", ("def check(c):\n    assert c(1) == 1\ncheck(A().g)",))
    counter = Program("class C:\n    n = 0\n    def up(self):\n        self.n += 1\n        return self.n\n",
                      ("c = C()\nassert c.up() == 1", "assert c.up() == 3", "assert c.up() == 3"))  # fmt: skip
    found, _ = judge([program, check, counter], Verdicts(tmp_path / "v.jsonl", LIMITS), workers=1)
    assert [f.status for f in found] == ["pass", "pass", "fail"]
    assert found[2].tests == ("pass", "fail", "pass")  # the second assert fails, but what it did to the state happened


def test_asserts_before_the_judged_one_are_evaluated_but_cannot_fail() -> None:
    (first, second) = each_alone(("assert f(1), 'no'", "assert f(2)"))
    assert first == ("assert f(1), 'no'",) and second[1] == "assert f(2)"
    seen = []
    exec("\n".join(second), {"f": lambda n: seen.append(n) or n == 2})
    assert seen == [1, 2]


def test_a_cut_line_is_dropped_and_a_broken_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    found, _ = judge(PLANTED.values(), Verdicts(path, LIMITS), workers=2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    again, executed = judge(PLANTED.values(), Verdicts(path, LIMITS), workers=2)
    assert again == found and executed == 1 and len(path.read_text().splitlines()) == 4
    path.write_bytes(b"{broken\n" + whole)
    with pytest.raises(DataError, match="line 1: expected a JSON row"):
        Verdicts(path, LIMITS)


def test_a_stop_keeps_the_verdicts_so_far(tmp_path: Path) -> None:
    many = [Program(f"def f(n):\n    return n + {i}\n", (f"assert f(1) == {1 + i}",)) for i in range(200)]
    taken: list[float] = []

    with pytest.raises(Interrupted):
        judge(many, Verdicts(tmp_path / "v.jsonl", LIMITS), workers=1, stop=lambda: len(taken) >= 40,
              progress=lambda done, total, note: taken.append(done))  # fmt: skip
    kept = [json.loads(line)["key"] for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert len(set(kept)) == len(kept) == len(taken) < 200
    found, executed = judge(many, Verdicts(tmp_path / "v.jsonl", LIMITS), workers=1)
    assert executed == 200 - len(kept) and all(f.consistent for f in found)


def test_limits_are_checked() -> None:
    assert limits_from({"cpu_s": 2, "memory_bytes": 1e8}) == Limits(cpu_s=2.0, memory_bytes=100_000_000)
    for bad, words in (({"cpu": 1}, "Did you mean 'cpu_s'"), ({"cpu_s": 0}, "positive")):
        with pytest.raises(DataError, match=words):
            limits_from(bad)


# ---- the published funnel ------------------------------------------------------------------------------------


def test_table_10_is_reproduced_from_its_counts_and_its_error_is_found() -> None:
    counts = {p.source: {"total": p.total, "filtered": p.filtered, "asked": p.filtered, "consistent": p.consistent}
              for p in TABLE_10 if p.source != "sum"}  # fmt: skip
    rows = {r.source: r for r in funnel(counts)}
    assert (rows["sum"].total, rows["sum"].filtered, rows["sum"].consistent) == (381427, 110213, 52293)
    assert [f"{r.ratio_percent:.2f}" for r in rows.values()] == ["25.58", "11.96", "15.34", "12.16", "27.12", "7.54", "13.71"]
    assert errata() == [Erratum("CodeExercise-Python-27k", "ratio, per cent", 27.56, 25.58)]
    assert "13.71" in funnel_text(list(rows.values())).splitlines()[-1]


def test_a_ratio_needs_every_seed_asked_about() -> None:
    (row,) = funnel({"s": {"total": 100, "filtered": 50, "asked": 10, "answered": 9, "consistent": 5}})
    assert row.ratio_percent is None and row.yield_percent == 50.0
