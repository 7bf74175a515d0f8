"""Model text -> a verdict for the usual cases: a program to execute, an answer to match, a label to choose.

Every function keeps the raw text and says which extraction strategy was used; text without an answer is `no_answer`, not `fail`.
Not covered: running programs (harness.py, core/sandbox); extraction rules (core/extract.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from leaven.core.extract import Extraction, extract_answer, extract_code
from leaven.core.sandbox import Job
from leaven.core.types import Item, Sample, Verdict
from leaven.evals.harness import Execution, Setting


def judge_program(
    item: Item, sample: Sample, setting: Setting, *, prefix: str = "", metric: str = "accuracy"
) -> Verdict | Execution:
    """Extract code and ask for its execution against the item's tests.

    Args:
        item: Its example carries tests and, optionally, an entry point.
        sample: The model's text.
        setting: Carries the sandbox limits.
        prefix: Code that stands before the extracted code (imports, a prompt that is itself code).
        metric: Name of the verdict's metric.
    """
    example = item.example
    found = extract_code(sample.text, entry_point=example.entry_point)
    verdict = _extracted(item, sample, found, metric)
    if not found.ok:
        return _without_answer(verdict, "no code was found in the text")
    job = Job(
        id=f"{item.id}#{sample.index}",
        program=prefix + found.code,
        tests=example.tests,
        entry_point=example.entry_point,
        limits=setting.limits,
    )
    return Execution(job=job, verdict=verdict)


def judge_answer(
    item: Item, sample: Sample, *, kind: str, gold: str, choices: Sequence[str] = (), metric: str = "accuracy"
) -> Verdict:
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
    verdict = Verdict(
        benchmark=item.benchmark, item=item.id, extracted=labels[best], strategy="likeliest label", detail=detail
    )
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
