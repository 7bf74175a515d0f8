"""Examples + a list of operations -> changed examples, each change proven by execution, and a row for every decision.

Operations run one after the other over all examples; ids, order and every field an operation does not name stay, so
that conditions pair. Per operation, an example is changed, unchanged (nothing to do, or not drawn at its rate), skipped
(the operation does not apply, with the reason) or refused (execution disproved the change: the original is kept). The
order in which examples are drawn is a random stream named by seed, operation, source and id: the examples changed at
one rate are among those changed at a higher one, and others stand in for those that cannot be changed, so that the
realised rate is the one asked for.
Proof: the tests run before and after. An example without tests is run as a script, which must end and print alike.
Not covered: what a change is (the files beside this one), scoring (evals/).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from leaven.core.rng import python_rng
from leaven.core.sandbox import Job, execute
from leaven.core.types import Example
from leaven.data.perturb.operation import PERTURBATIONS, Change, Expect, Operation, Skip, check_operations
from leaven.errors import StudyError

ROUNDS = (1, 3, 6, 10)
"""How many draws are run at once, round after round, until one breaks a test; then an example is skipped."""

MEASURED = ("fail", "error")
UNPROVEN = "not proven"


@dataclass(frozen=True, slots=True)
class Seen:
    """How a program ended: its verdict and the end of what it printed."""

    status: str = ""
    printed: str = ""


@dataclass(slots=True)
class Decision:
    """What became of one example under one operation; a row of perturbed.parquet."""

    outcome: str = "unchanged"
    reason: str = ""
    before: str = ""
    after: str = ""
    edits: int = 0
    sites: int = 0

    def row(self, example: Example, label: str) -> dict[str, Any]:
        """Return the decision as a row of PERTURBED."""
        return {
            "example": example.id,
            "operation": label,
            "outcome": self.outcome,
            "reason": self.reason,
            "status_before": self.before,
            "status_after": self.after,
            "edits": self.edits,
            "sites": self.sites,
        }


def _silent(done: float, total: float, note: str = "") -> None:
    """Report nothing."""


def _never() -> bool:
    return False


@dataclass(slots=True)
class Lab:
    """Runs programs in the sandbox, each distinct one once; how many workers and which tier is the caller's matter."""

    tier: str = "auto"
    workers: int = 0
    stop: Callable[[], bool] = _never
    _known: dict[tuple[Any, ...], Seen] | None = None

    def run(self, examples: Sequence[Example]) -> list[Seen]:
        """Return how each example's code ends with its tests, or as a script where it has none."""
        known = self._known = {} if self._known is None else self._known
        keys = [self._key(e) for e in examples]
        new = list(dict.fromkeys(k for k in keys if k not in known))
        jobs = [Job(id=str(n), program=p, tests=t, entry_point=e) for n, (p, t, e) in enumerate(new)]
        results = execute(jobs, workers=self.workers, tier=self.tier, stop=self.stop) if jobs else ()
        for key, result in zip(new, results, strict=True):
            known[key] = Seen(result.status, result.stdout_tail)
        return [known[k] for k in keys]

    @staticmethod
    def _key(example: Example) -> tuple[str, tuple[str, ...], str]:
        setup = str(example.meta.get("setup") or "")
        return (f"{setup}\n{example.code}" if setup else example.code), example.tests, example.entry_point


def perturb_examples(
    examples: Iterable[Example],
    operations: Sequence[Any],
    seed: int,
    *,
    prove: bool = True,
    tier: str = "auto",
    workers: int = 0,
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
        stop: polled; turning true raises Interrupted.
        progress: called as (done, total, note).

    Raises:
        StudyError: an operation is unknown or misspelt, or needs the proof that `prove` turns off.
    """
    checked = check_operations(operations)
    now = list(examples)
    size = len(now)
    lab = Lab(tier, workers, stop) if prove else None
    rows: list[dict[str, Any]] = []
    for number, operation in enumerate(checked):
        tell = partial(_tell, progress, number * size, len(checked) * size)
        now, decisions = _Pass(operation, now, seed, lab, tell).run()
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
        operations: see `check_operations`; those that need tests or other examples are refused there with `scored`.
        seed: of all draws.
        key: Names the random stream (item and sample index).
        entry_point: The function the tests call; it keeps its name.
        tests: The tests, where at hand: names and keywords they use are kept.

    Returns:
        (code, outcome, reason): changed when an operation changed it, else skipped or unchanged; reasons of all
        operations that did not apply.
    """
    example = Example(id=key, source="scored", code=code, entry_point=entry_point, tests=tuple(tests))
    outcome, reasons = "unchanged", []
    for operation in check_operations(operations, scored=True):
        kind = PERTURBATIONS.get(operation.name)()
        random = _stream(seed, operation, example)
        drawn = random.random() < operation.rate or kind.rate_of == "tokens"
        try:
            change = kind.apply(example, random, _options(kind, operation)) if drawn else Change(example, 0, 0)
        except (Skip, RecursionError) as problem:
            reasons.append(f"{operation.label}: {_why(problem)}")
            outcome = "skipped" if outcome == "unchanged" else outcome
            continue
        if change.edits:
            example, outcome = change.example, "changed"
    return example.code, outcome, "; ".join(reasons)


def _stream(seed: int, operation: Operation, example: Example) -> Random:
    return python_rng(seed, "perturb", operation.label, example.source, example.id)


def _options(kind: Any, operation: Operation) -> dict[str, Any]:
    """Return the options `apply` gets: with the rate among them where it is a share of tokens."""
    return {**operation.options, **({"rate": operation.rate} if kind.rate_of == "tokens" else {})}


def _why(problem: Skip | RecursionError) -> str:
    return str(problem) if isinstance(problem, Skip) else "nested too deeply"


class _Pass:
    """One operation over all examples."""

    def __init__(self, operation: Operation, examples: list[Example], seed: int, lab: Lab | None, tell: Callable[[int, str], None]) -> None:
        self.operation, self.lab, self.tell, self.seed = operation, lab, tell, seed
        self.kind = PERTURBATIONS.get(operation.name)()
        self.options = _options(self.kind, operation)
        self.expects: Expect = self.kind.expects(operation.options)
        self.examples = list(examples)
        self.decisions = [Decision() for _ in examples]
        self.streams = [_stream(seed, operation, e) for e in examples]
        self.whole: list[Change | Skip] | None = None
        if self.expects == "fails" and lab is None:
            raise StudyError(f"perturb: {operation.name!r} is defined by tests that fail; it needs prove: true")

    def run(self) -> tuple[list[Example], list[Decision]]:
        """Return the examples after the operation and one decision for each."""
        whole = hasattr(self.kind, "apply_all")
        self.whole = self.kind.apply_all(self.examples, self.seed, self.options) if whole else None
        draws = [stream.random() for stream in self.streams]
        queue = sorted(range(len(draws)), key=draws.__getitem__)
        rate = 1.0 if self.kind.rate_of == "tokens" else self.operation.rate
        missing = round(rate * len(queue))
        while missing and queue:
            batch, queue = queue[:missing], queue[missing:]
            missing -= self._settle(batch)
            self._report()
        for place in queue:
            self.decisions[place].reason = f"not drawn: rate {self.operation.rate:g}"
        return self.examples, self.decisions

    def _report(self) -> None:
        counts = Counter(d.outcome for d in self.decisions)
        done = sum(bool(d.reason or d.outcome != "unchanged") for d in self.decisions)
        self.tell(done, f"{self.operation.label}: " + ", ".join(f"{n} {o}" for o, n in counts.most_common()))

    def _settle(self, places: list[int]) -> int:
        """Decide on these examples; return how many were changed."""
        proposals: dict[int, Change] = {}
        for place in places:
            if (change := self._propose(place)) is not None:
                proposals[place] = change
        if self.expects == "fails":
            accepted = self._until_broken(proposals)
        elif self.lab is None or self.expects == "unexecuted":
            accepted = proposals
        else:
            accepted = self._proven(proposals, self.lab)
        for place, change in accepted.items():
            decision = self.decisions[place]
            decision.outcome, decision.edits, decision.sites = "changed", change.edits, change.sites
            decision.reason = decision.reason or change.note
            self.examples[place] = change.example
        return len(accepted)

    def _propose(self, place: int) -> Change | None:
        """Return what the operation makes of an example; None, with the decision taken, when it stays."""
        decision = self.decisions[place]
        try:
            found = self.whole[place] if self.whole is not None else self._apply(place)
            if isinstance(found, Skip):
                raise found
        except (Skip, RecursionError) as problem:
            decision.outcome, decision.reason = "skipped", _why(problem)
            return None
        if not found.edits:
            decision.reason, decision.sites = found.note or "nothing to change", found.sites
            return None
        return found

    def _apply(self, place: int) -> Change:
        language = self.examples[place].meta.get("language") or "python"
        if str(language).lower() not in ("python", "python3", "py"):
            raise Skip(f"not Python: {language}")
        return self.kind.apply(self.examples[place], self.streams[place], self.options)

    def _proven(self, proposals: Mapping[int, Change], lab: Lab) -> dict[int, Change]:
        """Return the proposals that execution does not disprove."""
        places = list(proposals)
        seen = lab.run([*(self.examples[p] for p in places), *(proposals[p].example for p in places)])
        before, after = seen[: len(places)], seen[len(places) :]
        accepted: dict[int, Change] = {}
        for place, old, new in zip(places, before, after, strict=True):
            decision = self.decisions[place]
            decision.before, decision.after = old.status, new.status
            if self.expects == "anything":
                accepted[place] = proposals[place]
            elif "harness_error" in (old.status, new.status):
                decision.outcome, decision.reason = "refused", "could not be run"
            elif old.status != new.status or (old.status == "pass" and not self._tests(place) and old.printed != new.printed):
                decision.outcome, decision.reason = "refused", f"the verdict changed: {old.status} to {new.status}"
            else:
                accepted[place] = proposals[place]
                if old.status != "pass":
                    decision.reason = f"{UNPROVEN}: the original ends in {old.status} too"
                elif not self._tests(place):
                    decision.reason = f"{UNPROVEN} by tests: it has none; it runs and prints alike"
        return accepted

    def _tests(self, place: int) -> tuple[str, ...]:
        return self.examples[place].tests

    def _until_broken(self, proposals: dict[int, Change]) -> dict[int, Change]:
        """Return, for each example that passes its tests, the first draw that makes one fail."""
        lab = self.lab
        assert lab is not None
        for place, seen in zip(list(proposals), lab.run([self.examples[p] for p in proposals]), strict=True):
            decision = self.decisions[place]
            decision.before = seen.status
            if seen.status != "pass":
                failed = seen.status in MEASURED
                decision.outcome = "unchanged" if failed else "skipped"
                decision.reason = f"fails already: {seen.status}" if failed else f"the original ends in {seen.status}"
                decision.after = seen.status
                del proposals[place]
        broken: dict[int, Change] = {}
        crashing: dict[int, Change] = {}  # raises instead of answering wrongly: taken where no wrong answer is found
        for size in ROUNDS:
            drawn = [(p, c) for p, first in proposals.items() for c in (first, *self._more(p, size - 1))]
            for (place, change), seen in zip(drawn, lab.run([c.example for _, c in drawn]), strict=True):
                if seen.status == "fail":
                    broken.setdefault(place, change)
                elif seen.status == "error":
                    crashing.setdefault(place, change)
            proposals = {p: (self._more(p, 1) or [c])[0] for p, c in proposals.items() if p not in broken}
        for place in proposals:
            decision = self.decisions[place]
            if place not in crashing:
                decision.outcome, decision.after = "skipped", "pass"
                decision.reason = f"no mistake made a test fail: {sum(ROUNDS)} tried"
        found = {p: "fail" for p in broken} | {p: "error" for p in proposals if p in crashing}
        for place, status in found.items():
            self.decisions[place].after = status
        return {p: broken.get(p) or crashing[p] for p in sorted(found)}

    def _more(self, place: int, count: int) -> list[Change]:
        """Return further draws for an example."""
        return [c for _ in range(count) if (c := self._propose(place)) is not None]


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
