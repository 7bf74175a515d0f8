"""Examples + a list of operations -> changed examples and a row for every decision; one program -> the changed program.

Operations run one after the other over all examples; ids, order and every field an operation does not name stay, so
that conditions pair. What one operation does to each example is decided and proven in passes.py.
Not covered: what a change is (the files beside this one), scoring (evals/).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from leaven.core.types import Example
from leaven.data.perturb.operation import PERTURBATIONS, Change, Operation, Skip, check_operations
from leaven.data.perturb.passes import UNPROVEN, Pass, options_of, stream_of, why
from leaven.data.perturb.proof import Lab


def _silent(done: float, total: float, note: str = "") -> None:
    """Report nothing."""


def _never() -> bool:
    return False


def perturb_examples(
    examples: Iterable[Example],
    operations: Sequence[Any],
    seed: int,
    *,
    prove: bool = True,
    tier: str = "auto",
    workers: int = 0,
    log: Path | None = None,
    stop: Callable[[], bool] = _never,
    progress: Callable[..., None] = _silent,
) -> tuple[list[Example], list[dict[str, Any]]]:
    """Apply operations to examples; return the examples in their order, and the rows of PERTURBED.

    Args:
        examples: any examples; those an operation does not apply to stay as they are, with a row that says why.
        operations: see `check_operations`.
        seed: of all draws.
        prove: Run programs before and after each change; off, nothing is executed or refused.
        tier: sandbox tier.
        workers: sandbox workers; 0 means one per core.
        log: A file that keeps verdicts, so that the same call after a stop does not run them again.
        stop: polled; turning true raises Interrupted.
        progress: called as (done, total, note).

    Raises:
        StudyError: an operation is unknown or misspelt, or needs the proof that `prove` turns off.
        Interrupted: `stop` turned true.
    """
    checked = check_operations(operations)
    now = list(examples)
    size = len(now)
    lab = Lab(tier, workers, stop, log) if prove else None
    rows: list[dict[str, Any]] = []
    for number, operation in enumerate(checked):
        tell = partial(_tell, progress, number * size, len(checked) * size)
        now, decisions = Pass(operation, now, seed, lab, tell, stop).run()
        rows += [d.row(e, operation.label) for e, d in zip(now, decisions, strict=True)]
    return now, rows


def _tell(progress: Callable[..., None], before: int, total: int, done: int, note: str) -> None:
    progress(before + done, total, note)


def perturb_code(
    code: str, operations: Sequence[Any], seed: int, key: str, entry_point: str = "", tests: Sequence[str] = ()
) -> tuple[str, str, str]:
    """Change one program before it is scored; nothing is executed, for the scoring that follows is the proof.

    Args:
        code: The program a model wrote, or the gold one.
        operations: see `check_operations`, which refuses those that need tests or other examples (`scored`).
        seed: of all draws.
        key: Names the random stream (item and sample index).
        entry_point: The function the tests call; it keeps its name.
        tests: The tests, where at hand: names and keywords they use are kept. Without them the entry point's parameters are.

    Returns:
        (code, outcome, reason): changed when an operation changed it, else skipped or unchanged; reasons of all
        operations that did not apply.
    """
    example = Example(id=key, source="scored", code=code, entry_point=entry_point, tests=tuple(tests))
    outcome, reasons = "unchanged", []
    for operation in check_operations(operations, scored=True):
        kind = PERTURBATIONS.get(operation.name)()
        stream = stream_of(seed, operation, example)
        drawn = stream.random() < operation.rate or kind.rate_of == "tokens"
        try:
            change = kind.apply(example, stream, options_of(kind, operation)) if drawn else Change(example, 0, 0)
        except (Skip, RecursionError) as problem:
            reasons.append(f"{operation.label}: {why(problem)}")
            outcome = "skipped" if outcome == "unchanged" else outcome
            continue
        if change.edits:
            example, outcome = change.example, "changed"
    return example.code, outcome, "; ".join(reasons)


def summary(operations: Sequence[Operation], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return, per operation, how many examples it changed, left, skipped and refused, why, and the realised rate."""
    report = []
    for operation in operations:
        own = [r for r in rows if r["operation"] == operation.label]
        changed = [r for r in own if r["outcome"] == "changed"]
        kind = PERTURBATIONS.get(operation.name)()
        per_tokens, proves = kind.rate_of == "tokens", kind.expects(operation.options) in ("same", "fails")
        sites = sum(r["sites"] for r in own)
        realised = sum(r["edits"] for r in changed) / max(1, sites) if per_tokens else len(changed) / max(1, len(own))
        reasons = Counter((r["outcome"], r["reason"].split(":")[0]) for r in own if r["reason"])
        verdicts = Counter(f"{r['status_before']} -> {r['status_after']}" for r in changed if r["status_after"])
        report.append(
            {
                "operation": operation.label,
                **operation.plain(),
                "examples": len(own),
                "outcomes": dict(sorted(Counter(r["outcome"] for r in own).items())),
                "reasons": {f"{outcome}: {reason}": n for (outcome, reason), n in sorted(reasons.items())},
                "verdicts_of_changed": dict(sorted(verdicts.items())),
                "proven": sum(proves and bool(r["status_after"]) and not r["reason"].startswith(UNPROVEN) for r in changed),
                "realised_rate": round(realised, 6),
                "edits": sum(r["edits"] for r in changed),
            }
        )
    return report
