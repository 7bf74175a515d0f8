"""Renaming and stripping real programs: what passed before passes after. MBPP's references by their tests, TheAlgorithms by doctests."""

from __future__ import annotations

import ast
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from leaven.core.sandbox import Job, Limits, Result, execute
from leaven.core.types import Example
from leaven.data.perturb import perturb_examples

EVERYTHING = {"kinds": ["variables", "parameters", "functions", "classes"]}

DOCTESTS = """
import doctest, sys, types
module = types.ModuleType("candidate")
sys.modules["candidate"] = module
lines = []
class Runner(doctest.DocTestRunner):
    def report_start(self, out, test, example): pass
    def report_success(self, out, test, example, got): lines.append(test.lineno + example.lineno)
    def report_failure(self, out, test, example, got): pass
    def report_unexpected_exception(self, out, test, example, info): pass
exec(compile({code!r}, "candidate.py", "exec"), module.__dict__)
for test in doctest.DocTestFinder().find(module):
    Runner(verbose=False).run(test)
sys.stdout = sys.__stdout__
count = [-1] * 40
for line in sorted(set(lines)):
    count[line % 40] = (count[line % 40] * 1000003 + line) % 1000000007
print()
print("@", len(set(lines)), *count)
"""
"""Prints how many doctest lines pass, and a digest of which (the sandbox keeps the last 2000 characters)."""


def rows(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        return [json.loads(line) for line in handle]


def mbpp(folder: Path) -> list[Example]:
    return [
        Example(
            id=str(r["task_id"]),
            source="mbpp",
            code=r["code"],
            tests=tuple(r["test_list"]),
            meta={"setup": r["test_setup_code"]} if r["test_setup_code"] else {},
        )
        for r in rows(folder / "code_eval/mbpp.jsonl.gz")
    ]


def algorithms(folder: Path) -> list[Example]:
    found = rows(folder / "corpus/python_thealgorithms.jsonl.gz")
    return [Example(id=r["path"], source="algorithms", code=r["text"]) for r in found if r["text"].strip()]


def doctested(examples: list[Example]) -> list[Result]:
    limits = Limits(cpu_s=20, wall_s=60, memory_bytes=2 << 30)
    return list(execute([Job(id=e.id, program=DOCTESTS.format(code=e.code), limits=limits) for e in examples]))


def check_doctests(examples: list[Example], options: dict) -> Counter[str]:
    """Rename files, compare their doctests; return how many files changed, were left, or were skipped and why."""
    new, decided = perturb_examples(examples, [{"name": "rename_identifiers", "options": options}], 0, prove=False)
    counts = Counter(r["outcome"] if r["outcome"] == "changed" else f"{r['outcome']}: {r['reason'].split(':')[0]}" for r in decided)
    places = [i for i, r in enumerate(decided) if r["outcome"] == "changed"]
    before, after = doctested([examples[i] for i in places]), doctested([new[i] for i in places])
    for one, other in zip(before, after, strict=True):
        if one.status != "pass":
            counts["not loaded before"] += 1
            continue
        assert other.status == "pass", (one.id, other.status, other.detail)
        assert other.stdout_tail.rsplit("@", 1)[1] == one.stdout_tail.rsplit("@", 1)[1], one.id
        counts["files that pass as before"] += 1
        counts["doctest lines"] += int(one.stdout_tail.rsplit("@", 1)[1].split()[0])
    return counts


def test_a_sample_of_mbpp_references_passes_after_renaming(shared_data: Path) -> None:
    _, decided = perturb_examples(mbpp(shared_data)[::8], [{"name": "rename_identifiers", "options": EVERYTHING}], 0)
    assert not [r for r in decided if r["outcome"] == "refused"]
    assert sum(r["status_before"] == r["status_after"] == "pass" for r in decided) >= 120


def test_a_sample_of_the_algorithms_passes_its_doctests_after_renaming(shared_data: Path) -> None:
    counts = check_doctests(algorithms(shared_data)[3::60], EVERYTHING)
    assert counts["files that pass as before"] >= 10 and counts["doctest lines"] > 50


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["variables", "everything"])
def test_every_mbpp_reference_passes_after_renaming(shared_data: Path, options: dict) -> None:
    _, decided = perturb_examples(mbpp(shared_data), [{"name": "rename_identifiers", "options": options}], 0)
    print(Counter((r["outcome"], r["status_before"], r["status_after"]) for r in decided))
    assert not [r for r in decided if r["outcome"] == "refused"]
    assert sum(r["outcome"] == "changed" and r["status_after"] == "pass" for r in decided) >= 970


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["variables", "everything"])
def test_every_doctest_of_the_algorithms_passes_after_renaming(shared_data: Path, options: dict) -> None:
    counts = check_doctests(algorithms(shared_data), options)
    print(counts)
    assert counts["files that pass as before"] > 850 and counts["doctest lines"] > 7000


@pytest.mark.slow
def test_stripping_and_renaming_the_standard_library_keeps_its_trees(shared_data: Path) -> None:
    """The tree checks inside each operation hold for a million lines: nothing is skipped for its layout."""
    found = rows(shared_data / "corpus/python_cpython_stdlib.jsonl.gz")
    examples = [Example(id=r["path"], source="stdlib", code=r["text"]) for r in found]
    for name in ("remove_comments", "remove_docstrings", "remove_signatures", "rename_identifiers"):
        new, decided = perturb_examples(examples, [name], 0, prove=False)
        skipped = Counter(r["reason"].split(":")[0] for r in decided if r["outcome"] == "skipped")
        assert not [r for r in skipped if "cannot" in r or "overlap" in r or "nested" in r], skipped
        for example in new:
            ast.parse(example.code)
