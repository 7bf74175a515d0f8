"""Programs with the tests their own author wrote -> verdicts: a record is consistent when its code passes all of its tests.

This is the self-consistency of Liu et al. 2025, section 3.1: it says that code and tests agree, not that either is what the
question asked for. All tests run together, in the sandbox; of a program that fails, each test is then judged alone (the asserts
before it are evaluated but cannot fail), so that a record knows which of its tests hold. A program the sandbox could not judge is
neither consistent nor inconsistent. Verdicts are appended to a file under the content they belong to and are never taken twice.
Not covered: the sandbox itself (core/sandbox), judging answers of evaluated models (evals/).
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leaven.core.hashing import digest
from leaven.core.sandbox import Job, Limits, execute
from leaven.data.seeds import parsed
from leaven.errors import DataError, did_you_mean

_LOOKED_INTO = ("fail", "error")  # the others (timeouts, crashes ...) would cost as much again for each test


@dataclass(frozen=True, slots=True)
class Program:
    """A solution, what runs before it, and the tests of the same author."""

    code: str
    tests: tuple[str, ...]
    entry_point: str = ""
    prelude: str = ""

    @property
    def text(self) -> str:
        """What is executed."""
        return f"{self.prelude.rstrip(chr(10))}\n\n{self.code}" if self.prelude.strip() else self.code


@dataclass(frozen=True, slots=True)
class Consistency:
    """How a program ended: `status` of all tests together with its detail, and one status per test."""

    status: str
    detail: str
    tests: tuple[str, ...]
    tier: str

    @property
    def consistent(self) -> bool | None:
        """True when all tests pass, False when not, None when the sandbox could not judge."""
        return None if self.status in ("harness_error", "not_measured") else self.status == "pass"


def limits_from(declared: Mapping[str, float]) -> Limits:
    """Return sandbox limits with the declared ones in place of the defaults.

    Raises:
        DataError: a name that is no limit, or a value that is not positive.
    """
    known = list(Limits.__dataclass_fields__)
    for name, value in declared.items():
        if name not in known:
            raise DataError(f"judging.limits: no limit is called {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}")
        if value <= 0:
            raise DataError(f"judging.limits.{name}: expected a positive number, found {value}")
    return Limits(**{n: float(v) if n.endswith("_s") else int(v) for n, v in declared.items()})  # type: ignore[arg-type]


def check_sandbox(tier: str = "auto") -> None:
    """Run one program that passes.

    Raises:
        RefusedError: the tier is not available here.
    """
    for _ in execute([Job("probe", "x = 1\n", ("assert x == 1",))], workers=1, tier=tier):
        pass


class Verdicts:
    """Verdicts by content, in a JSONL file that only grows; a last line cut by a kill is dropped."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits = path, limits
        self.known: dict[str, Consistency] = {}
        for row in read_log(path):
            self.known[row["key"]] = Consistency(row["status"], row["detail"], tuple(row["tests"]), row["tier"])

    def key(self, program: Program) -> str:
        """Return the identity of a verdict: program text, tests and limits."""
        return digest({"program": program.text, "tests": program.tests, "entry_point": program.entry_point, "limits": self.limits})[:32]

    def add(self, key: str, verdict: Consistency) -> None:
        """Keep a verdict; what the sandbox could not judge is tried again next time."""
        self.known[key] = verdict
        if verdict.consistent is not None:
            row = {"key": key, "status": verdict.status, "detail": verdict.detail, "tests": verdict.tests, "tier": verdict.tier}
            append_log(self.path, row)


def judge(
    programs: Iterable[Program],
    verdicts: Verdicts,
    *,
    workers: int = 0,
    tier: str = "auto",
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[..., None] = lambda done, total, note="": None,
) -> tuple[list[Consistency], int]:
    """Return one Consistency per program, in order, and how many of them were executed now.

    Raises:
        RefusedError: the tier is not available here.
        Interrupted: `stop` turned true; verdicts so far are kept.
    """
    listed = [(verdicts.key(p), p) for p in programs]
    todo = {key: p for key, p in listed if key not in verdicts.known}
    whole = [Job(key, p.text, p.tests, p.entry_point, limits=verdicts.limits) for key, p in todo.items()]
    failed: dict[str, tuple[str, str, str]] = {}
    for done, result in enumerate(execute(whole, workers=workers, tier=tier, stop=stop), 1):
        tests = todo[result.id].tests
        if result.status in _LOOKED_INTO and len(tests) > 1:
            failed[result.id] = (result.status, result.detail, result.tier)
        else:
            each = tuple(result.status for _ in tests) if result.status == "pass" or len(tests) == 1 else ()
            verdicts.add(result.id, Consistency(result.status, result.detail, each, result.tier))
        progress(done, len(whole), "executing")
    _each_test(failed, todo, verdicts, workers, tier, stop, progress)
    return [verdicts.known[key] for key, _ in listed], len(todo)


def _each_test(failed: Mapping[str, tuple[str, str, str]], todo: Mapping[str, Program], verdicts: Verdicts, workers: int, tier: str,
               stop: Callable[[], bool], progress: Callable[..., None]) -> None:  # fmt: skip
    """Judge every test of the failed programs alone and keep their verdicts."""
    jobs = [
        Job(f"{key}/{i}", todo[key].text, tests, todo[key].entry_point, limits=verdicts.limits)
        for key in failed
        for i, tests in enumerate(each_alone(todo[key].tests))
    ]
    found: dict[str, list[str]] = {}
    for done, result in enumerate(execute(jobs, workers=workers, tier=tier, stop=stop), 1):
        key = result.id.split("/")[0]
        found.setdefault(key, []).append(result.status)
        if len(found[key]) == len(todo[key].tests):
            status, detail, on = failed[key]
            verdicts.add(key, Consistency(status, detail, tuple(found[key]), on))
        progress(done, len(jobs), "tests of failed programs, one by one")


def each_alone(tests: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield, for every test, the texts that judge it alone: those before it with asserts that cannot fail, then it."""
    lenient: list[str] = []
    for test in tests:
        yield (*lenient, test)
        lenient.append(_lenient(test))


def _lenient(test: str) -> str:
    """Return a test whose asserts are evaluated (they may change state) but never fail."""
    tree = parsed(test)
    if tree is None:
        return ""
    try:
        return ast.unparse(ast.fix_missing_locations(_Lenient().visit(tree)))
    except (RecursionError, ValueError):  # too deep, or a number of thousands of digits: then without what this test did
        return ""


class _Lenient(ast.NodeTransformer):
    def visit_Assert(self, node: ast.Assert) -> ast.AST:  # noqa: N802 (the name ast dispatches on)
        handler = ast.ExceptHandler(type=ast.Name("Exception", ast.Load()), name=None, body=[ast.Pass()])
        return ast.Try(body=[ast.Expr(node.test)], handlers=[handler], orelse=[], finalbody=[])


# ---- files that only grow ----------------------------------------------------------------------------------------


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a growing JSONL file; a last line without its newline (cut by a kill) is removed from the file.

    Raises:
        DataError: another line is broken.
    """
    if not path.is_file():
        return
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as handle:
            handle.truncate(len(whole))
    for number, line in enumerate(whole.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            row["key"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: line {number}: expected a JSON row with a key, found {line[:80]!r}; remove that line, the others are kept"
            ) from error
        yield row


def append_log(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row as one write, so that a kill leaves whole lines and at most one cut line at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as handle:
        handle.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
