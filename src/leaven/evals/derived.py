"""Verdicts of a benchmark -> metrics that every benchmark has: pass@k, parse_error, tokens. Nothing is generated or executed again.

`pass@k` is one verdict per item from the benchmark's first metric (passk.py); `parse_error` is 1 for each sample in which nothing could
be judged (no code, no answer), so that it is told apart from a wrong one; `tokens` is the length of each completion. `bits_per_byte` is
no derived metric: it needs the model (harness.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from leaven.core.types import Item, Sample, Verdict
from leaven.evals.passk import item_values, k_of

DERIVED = ("parse_error", "tokens")


def is_derived(metric: str) -> bool:
    """Return whether a metric is computed here."""
    return metric in DERIVED or k_of(metric) is not None


def derived_verdicts(
    items: Sequence[Item],
    samples: Mapping[str, Sequence[Sample]],
    verdicts: Sequence[Verdict],
    metrics: Sequence[str],
    n: int,
    base: str,
) -> Iterator[Verdict]:
    """Yield the verdicts of derived metrics in item order.

    Args:
        items: The items.
        samples: Item id -> its samples.
        verdicts: What was judged, of every metric.
        metrics: Metrics asked for; those that are not derived are passed over.
        n: Samples planned per item; missing ones are failures.
        base: The metric that counts passes.
    """
    own: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.metric == base:
            own.setdefault(verdict.item, []).append(verdict)
    for metric in metrics:
        k = k_of(metric)
        if k is not None:
            judged = [v for found in own.values() for v in found]
            values = item_values(judged, [i.id for i in items], n, k)
            yield from (_pass_at(item, metric, values[item.id], own.get(item.id, ()), n) for item in items)
        elif metric == "parse_error":
            for item in items:
                for v in own.get(item.id, ()):
                    yield _of_sample(item, v.index, metric, float(v.status == "no_answer"))
        elif metric == "tokens":
            for item in items:
                for s in samples.get(item.id, ()):
                    if s.logprob_nats is None or s.text or s.finish:  # scored golds are no completions
                        yield _of_sample(item, s.index, metric, float(s.n_tokens) if s.n_tokens else None)


def _pass_at(item: Item, metric: str, value: float | None, own: Sequence[Verdict], n: int) -> Verdict:
    passes = sum(v.score == 1.0 for v in own)
    return Verdict(
        benchmark=item.benchmark,
        item=item.id,
        metric=metric,
        status="pass" if value is not None else "not_measured",
        score=value,
        detail=f"{passes} of {max(n, len(own))} samples passed",
    )


def _of_sample(item: Item, index: int, metric: str, score: float | None) -> Verdict:
    status = "pass" if score is not None else "not_measured"
    return Verdict(benchmark=item.benchmark, item=item.id, index=index, metric=metric, status=status, score=score)
