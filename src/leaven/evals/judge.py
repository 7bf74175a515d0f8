"""Model text -> a verdict for the usual cases: a program to execute, an answer to match, a label to choose.

Every function keeps the raw text and says which extraction strategy was used; text without an answer is `no_answer`, not `fail`.
Not covered: running programs (harness.py, core/sandbox); extraction rules (core/extract.py).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from types import CodeType

from leaven.core.extract import Extraction, extract_answer, extract_code, extract_completion
from leaven.core.prune import imports_for
from leaven.core.sandbox import Job, Limits
from leaven.core.types import Item, Sample, Verdict
from leaven.evals.harness import Execution, Setting


def judge_program(
    item: Item,
    sample: Sample,
    setting: Setting,
    *,
    prompt: str = "",
    prefix: str = "",
    tests: Sequence[str] | None = None,
    limits: Limits | None = None,
    library: Mapping[str, str] | None = None,
    checks: bool = True,
    metric: str = "accuracy",
) -> Verdict | Execution:
    """Extract code and ask for its execution against the item's tests.

    Args:
        item: Its example carries tests and, optionally, an entry point.
        sample: The model's text.
        setting: Carries the sandbox limits.
        prompt: Code that the text may continue instead of defining the entry point itself.
        prefix: Code that stands before the extracted code (imports, helpers of the prompt).
        tests: Other tests than the item's.
        limits: Other limits than the setting's.
        library: Name -> import that brings it; given for a name the program uses and never defines.
        checks: Whether a `check(candidate)` that the tests define and never call is to be called with the entry point.
        metric: Name of the verdict's metric.
    """
    example = item.example
    tests = example.tests if tests is None else tuple(tests)
    needed = names_of_tests(tests)
    if prompt:
        found = extract_completion(sample.text, prompt, example.entry_point, needed)
    else:
        found = extract_code(sample.text, entry_point=example.entry_point, needed=needed)
    verdict = _extracted(item, sample, found, metric)
    if not found.ok:
        return _without_answer(verdict, "no code was found in the text")
    missing = imports_for(found.code, library) if library else ""
    job = Job(
        id=f"{item.id}#{sample.index}",
        program=missing + prefix + found.code,
        tests=tests,
        entry_point=example.entry_point if checks else "",
        limits=limits or setting.limits,
    )
    return Execution(job=job, verdict=verdict)


def judge_runs(
    item: Item,
    sample: Sample,
    jobs: Sequence[Job],
    *,
    accepts: Callable[[str, str], bool] | None = None,
    prefix: str = "",
    library: Mapping[str, str] | None = None,
    metric: str = "accuracy",
) -> Verdict | Execution:
    """Extract code and ask for its execution in every job (whose id and program are filled in here).

    Args:
        item: Its example carries the entry point, "" for programs that are scripts.
        sample: The model's text.
        jobs: At least one; inputs, expected outputs, tests and limits.
        accepts: As in Execution.
        prefix: Code that stands before the extracted code.
        library: As in `judge_program`.
        metric: Name of the verdict's metric.
    """
    needed = frozenset().union(*(names_of_tests(job.tests) for job in jobs))
    found = extract_code(sample.text, entry_point=item.example.entry_point, needed=needed)
    verdict = _extracted(item, sample, found, metric)
    if not found.ok:
        return _without_answer(verdict, "no code was found in the text")
    program = (imports_for(found.code, library) if library else "") + prefix + found.code
    made = [dataclasses.replace(job, id=f"{item.id}#{sample.index}", program=program) for job in jobs]
    return Execution(job=made[0], verdict=verdict, more=tuple(made[1:]), accepts=accepts)


def judge_extracted(
    item: Item, sample: Sample, found: Extraction, job: Job, *, missing: str = "", metric: str = "accuracy"
) -> Verdict | Execution:
    """Ask for the execution of an assembled program; with `missing`, say instead that and why it is not measured.

    A text without a program is no_answer; where programs are not measured it has no score either.
    """
    verdict = _extracted(item, sample, found, metric)
    if not found.ok:
        without = _without_answer(verdict, "no code was found in the text")
        return dataclasses.replace(without, score=None) if missing else without
    if missing:
        return dataclasses.replace(verdict, status="not_measured", score=None, detail=missing)
    return Execution(job=job, verdict=verdict)


@functools.lru_cache(maxsize=4096)  # every sample of an item meets the same tests
def names_of_tests(tests: tuple[str, ...]) -> frozenset[str]:
    """Return the names that test texts read; texts that are no Python read none."""
    names: set[str] = set()
    for text in tests:
        try:
            todo = [compile(text, "<tests>", "exec", dont_inherit=True)]
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        while todo:
            code = todo.pop()
            names.update(code.co_names)
            todo += [c for c in code.co_consts if isinstance(c, CodeType)]
    return frozenset(names)


def judge_answer(item: Item, sample: Sample, *, kind: str, gold: str, choices: Sequence[str] = (), metric: str = "accuracy") -> Verdict:
    """Extract a final answer and compare it with the gold after the same normalisation."""
    found = extract_answer(sample.text, kind=kind, choices=tuple(choices))
    verdict = _extracted(item, sample, found, metric)
    if not found.ok:
        return _without_answer(verdict, f"no {kind} was found in the text")
    wanted = extract_answer(gold, kind=kind, choices=tuple(choices))
    right = found.value == (wanted.value if wanted.ok else gold.strip())
    return _scored(verdict, right, "" if right else f"expected {gold!r}")


def judge_labels(item: Item, scores: Sequence[float], labels: Sequence[str], gold: str) -> Verdict:
    """Choose the label with the highest score (nats, normalised by the benchmark) and compare it with the gold."""
    best = max(range(len(labels)), key=scores.__getitem__)
    detail = ", ".join(f"{label} {score:.3f}" for label, score in zip(labels, scores, strict=True))
    verdict = Verdict(benchmark=item.benchmark, item=item.id, extracted=labels[best], strategy="likeliest label", detail=detail)
    return _scored(verdict, labels[best] == gold, detail)


def _extracted(item: Item, sample: Sample, found: Extraction, metric: str) -> Verdict:
    """Return a verdict that says what was found in the text and how; status and score are still to come."""
    return Verdict(
        benchmark=item.benchmark,
        item=item.id,
        index=sample.index,
        metric=metric,
        extracted=found.value,
        strategy=found.strategy,
        raw=sample.text,
    )


def _without_answer(verdict: Verdict, detail: str) -> Verdict:
    """Return the verdict of a text in which nothing could be judged: score 0, status no_answer."""
    return dataclasses.replace(verdict, status="no_answer", score=0.0, detail=detail)


def _scored(verdict: Verdict, right: bool, detail: str) -> Verdict:
    """Return the verdict of a judged answer."""
    return dataclasses.replace(verdict, status="pass" if right else "fail", score=float(right), detail=detail)
