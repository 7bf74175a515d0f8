"""One operation over all examples: which are drawn, what it makes of each, and what execution says about that.

An example is changed, unchanged (nothing to do, or not drawn at its rate), skipped (the operation does not apply, with
the reason) or refused (execution disproved the change: the original is kept). Examples are drawn in an order that is a
random stream named by seed, operation, source and id: those changed at one rate are among those changed at a higher one,
and the next in line stand in for those that cannot be changed, so that the realised rate is the one asked for.
Proof: the tests run before and after. An example without tests is run as a script, which must end and print alike.
Not covered: several operations, programs of a model (driver.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from leaven.core.rng import python_rng
from leaven.core.types import Example
from leaven.data.perturb.operation import PERTURBATIONS, Change, Expect, Operation, Skip
from leaven.data.perturb.places import code_blocks, with_code
from leaven.data.perturb.proof import DRAFT_LIMITS, Lab, Seen
from leaven.errors import Interrupted, StudyError

ROUNDS = (1, 3, 6, 10)
"""How many draws are run at once, round after round, until one breaks a test; then an example is skipped."""

UNPROVEN = "not proven"
_CHUNK = 500
_FAILING = ("fail", "error")


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


def stream_of(seed: int, operation: Operation, example: Example) -> Random:
    """Return the random stream of one operation on one example; its first number decides whether it is drawn."""
    return python_rng(seed, "perturb", operation.label, example.source, example.id)


def options_of(kind: Any, operation: Operation) -> dict[str, Any]:
    """Return the options that `apply` gets: with the rate among them where it is a share of tokens."""
    return {**operation.options, **({"rate": operation.rate} if kind.rate_of == "tokens" else {})}


def why(problem: Skip | RecursionError) -> str:
    """Return the reason for skipping."""
    return str(problem) if isinstance(problem, Skip) else "nested too deeply"


class Pass:
    """One operation over all examples; `lab` is None where nothing is proven.

    Raises:
        StudyError: on construction, when the operation is defined by tests that fail and there is no lab.
    """

    def __init__(
        self,
        operation: Operation,
        examples: list[Example],
        seed: int,
        lab: Lab | None,
        tell: Callable[[int, str], None],
        stop: Callable[[], bool],
    ) -> None:
        self.operation, self.lab, self.tell, self.stop, self.seed = operation, lab, tell, stop, seed
        self.kind = PERTURBATIONS.get(operation.name)()
        self.options = options_of(self.kind, operation)
        self.expects: Expect = self.kind.expects(operation.options)
        self.examples = list(examples)
        self.decisions = [Decision() for _ in examples]
        self.streams = [stream_of(seed, operation, e) for e in examples]
        self.whole: list[Change | Skip] | None = None
        self.decided = 0
        if self.expects == "fails" and lab is None:
            raise StudyError(f"perturb: {operation.name!r} is defined by tests that fail; it needs prove: true")

    def run(self) -> tuple[list[Example], list[Decision]]:
        """Return the examples after the operation and one decision for each; raises Interrupted."""
        if hasattr(self.kind, "apply_all"):
            self.whole = self.kind.apply_all(self.examples, self.seed, self.options)
        draws = [stream.random() for stream in self.streams]
        queue = sorted(range(len(draws)), key=draws.__getitem__)
        rate = 1.0 if self.kind.rate_of == "tokens" else self.operation.rate
        missing = round(rate * len(queue))
        while missing and queue:
            size = min(missing, _CHUNK)
            batch, queue = queue[:size], queue[size:]
            missing -= self._settle(batch)
            self.decided += len(batch)
            self._report()
        for place in queue:
            self.decisions[place].reason = f"not drawn: rate {self.operation.rate:g}"
        self.decided = len(self.decisions)
        self._report()
        return self.examples, self.decisions

    def _report(self) -> None:
        counts = Counter(d.outcome for d in self.decisions)
        waiting = len(self.decisions) - self.decided
        counts["unchanged"] -= waiting
        said = [f"{n} {outcome}" for outcome in ("changed", "unchanged", "skipped", "refused") if (n := counts[outcome])]
        self.tell(self.decided, f"{self.operation.label}: {', '.join(said)}")

    def _settle(self, places: list[int]) -> int:
        """Decide on these examples; return how many were changed."""
        if self.stop():
            raise Interrupted("stopped while examples were being changed; run the same command to resume")
        proposals = {place: change for place in places if (change := self._propose(place)) is not None}
        if self.expects == "fails":
            accepted = self._broken(proposals)
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

    # -- what the operation makes of an example -----------------------------------------------------------------------

    def _propose(self, place: int) -> Change | None:
        """Return what the operation makes of an example; None, with the decision taken, when it stays."""
        decision = self.decisions[place]
        try:
            found = self.whole[place] if self.whole is not None else self._apply(self.examples[place], self.streams[place])
            if isinstance(found, Skip):
                raise found
        except (Skip, RecursionError) as problem:
            decision.outcome, decision.reason = "skipped", why(problem)
            return None
        if not found.edits:
            decision.reason, decision.sites = found.note or "nothing to change", found.sites
            return None
        return found

    def _apply(self, example: Example, stream: Random) -> Change:
        language = example.meta.get("language") or "python"
        if str(language).lower() not in ("python", "python3", "py"):
            raise Skip(f"not Python: {language}")
        blocks = code_blocks(example) if getattr(self.kind, "on", "") == "code" and not example.code else []
        if not blocks:
            return self.kind.apply(example, stream, self.options)
        found: list[Change | Skip] = []
        for block in blocks:
            try:
                found.append(self.kind.apply(replace(example, code=block.code), stream, self.options))
            except Skip as reason:
                found.append(reason)
        changes = [c for c in found if isinstance(c, Change)]
        if not changes:
            raise next(s for s in found if isinstance(s, Skip))
        codes = [f.example.code if isinstance(f, Change) else b.code for f, b in zip(found, blocks, strict=True)]
        notes = "; ".join(dict.fromkeys(c.note for c in changes if c.note))
        return Change(with_code(example, blocks, codes), sum(c.edits for c in changes), sum(c.sites for c in changes), notes)

    # -- what execution says ------------------------------------------------------------------------------------------

    def _proven(self, proposals: Mapping[int, Change], lab: Lab) -> dict[int, Change]:
        """Return the proposals that execution does not disprove."""
        places = list(proposals)
        seen = lab.run([*(self.examples[p] for p in places), *(proposals[p].example for p in places)])
        accepted: dict[int, Change] = {}
        for place, old, new in zip(places, seen, seen[len(places) :], strict=False):
            decision = self.decisions[place]
            decision.before, decision.after = old.status, new.status
            refusal = "" if self.expects == "anything" else _disproof(old, new, tested=bool(self.examples[place].tests))
            if refusal:
                decision.outcome, decision.reason = "refused", refusal
                continue
            accepted[place] = proposals[place]
            if self.expects == "same" and old.status != "pass":
                decision.reason = f"{UNPROVEN}: the original ends in {old.status} too"
            elif self.expects == "same" and not self.examples[place].tests:
                decision.reason = f"{UNPROVEN} by tests: it has none; it runs and prints alike"
        return accepted

    def _broken(self, proposals: dict[int, Change]) -> dict[int, Change]:
        """Return, for each example that passes its tests, a draw that makes one fail (raising only where none answers wrongly)."""
        lab = self.lab
        assert lab is not None
        for place, seen in zip(list(proposals), lab.run([self.examples[p] for p in proposals]), strict=True):
            decision = self.decisions[place]
            decision.before = seen.status
            if seen.status != "pass":
                failed = seen.status in _FAILING
                decision.outcome, decision.after = "unchanged" if failed else "skipped", seen.status
                decision.reason = f"fails already: {seen.status}" if failed else f"the original ends in {seen.status}"
                del proposals[place]
        wrong: dict[int, Change] = {}
        raising: dict[int, Change] = {}
        for size in ROUNDS:
            drawn = [(p, c) for p, first in proposals.items() for c in (first, *self._more(p, size - 1))]
            for (place, change), seen in zip(drawn, lab.run([c.example for _, c in drawn], DRAFT_LIMITS), strict=True):
                if seen.status in _FAILING:
                    (wrong if seen.status == "fail" else raising).setdefault(place, change)
            proposals = {p: (self._more(p, 1) or [c])[0] for p, c in proposals.items() if p not in wrong}
        for place in proposals:
            if place not in raising:
                decision = self.decisions[place]
                decision.outcome, decision.after = "skipped", "pass"
                decision.reason = f"no mistake made a test fail: {sum(ROUNDS)} tried"
        found = {**raising, **wrong}
        for place in found:
            self.decisions[place].after = "fail" if place in wrong else "error"
        return dict(sorted(found.items()))

    def _more(self, place: int, count: int) -> list[Change]:
        """Return further draws for an example."""
        return [c for _ in range(count) if (c := self._propose(place)) is not None]


def _disproof(old: Seen, new: Seen, *, tested: bool) -> str:
    """Return why two runs do not show the same program, "" when they do."""
    if "harness_error" in (old.status, new.status):
        return "could not be run"
    if old.status != new.status:
        return f"the verdict changed: {old.status} to {new.status}"
    return "it prints something else" if old.status == "pass" and not tested and old.printed != new.printed else ""
