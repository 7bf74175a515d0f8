"""pass@k: hand values, brute force over subsets, intervals that cover, tables T x k, and what counts as a failure."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaven.analysis.stats import wilson
from leaven.core.types import Example, Item, Sample, Verdict
from leaven.errors import DataError, StudyError
from leaven.evals.derived import derived_verdicts
from leaven.evals.harness import metrics_of, open_benchmark
from leaven.evals.passk import GenerationSet, check_k, item_values, pass_at_k, share, sweep


@pytest.mark.parametrize(
    ("n", "c", "k", "value"),
    [
        (1, 0, 1, 0.0),
        (1, 1, 1, 1.0),
        (2, 1, 1, 0.5),
        (2, 1, 2, 1.0),
        (10, 3, 1, 0.3),
        (10, 3, 5, 1 - 21 / 252),
        (5, 1, 3, 0.6),
        (20, 0, 10, 0.0),
    ],
)
def test_hand_values(n: int, c: int, k: int, value: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(value, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_brute_force_over_subsets(case: tuple[int, int, int]) -> None:
    n, c, k = case
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 200), st.data())
def test_monotone_in_k_and_exact_for_large_n(n: int, data: st.DataObject) -> None:
    c = data.draw(st.integers(0, n))
    values = [pass_at_k(n, c, k) for k in range(1, n + 1)]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(values)) and values[0] == pytest.approx(c / n)
    for k in (1, n // 2, n):
        exact = 1 - math.comb(n - c, k) / math.comb(n, k) if k else 0
        assert not k or values[k - 1] == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 6, 1), (5, -1, 1), (5, 2, 0), (5, 2, 6)])
def test_impossible_numbers_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(DataError, match=f"n={n}, c={c}, k={k}"):
        pass_at_k(n, c, k)


def verdict(item: str, index: int, score: float | None, status: str = "") -> Verdict:
    return Verdict(benchmark="b", item=item, index=index, score=score, status=status or ("pass" if score else "fail"))  # type: ignore[arg-type]


def test_missing_samples_fail_and_unmeasured_ones_do_not_count() -> None:
    verdicts = [verdict("a", 0, 1.0), verdict("a", 1, 0.0), verdict("b", 0, 1.0), verdict("b", 1, None, "not_measured")]
    verdicts += [verdict("d", i, None, "harness_error") for i in range(4)]
    values = item_values(verdicts, ["a", "b", "c", "d"], 4, 2)
    assert values["a"] == pytest.approx(pass_at_k(4, 1, 2)) == 0.5
    assert values["b"] == pytest.approx(pass_at_k(3, 1, 2))
    assert values["c"] == 0.0 and values["d"] is None
    assert share(values).n_not_measured == 1


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
@settings(max_examples=50, deadline=None)
def test_one_sample_per_independent_item_is_wilson(case: tuple[int, int]) -> None:
    n, passes = case
    found = share({str(i): float(i < passes) for i in range(n)})
    expected = wilson(passes, n)
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=1e-9), pytest.approx(expected.high, abs=1e-9))


def test_identical_items_of_a_cluster_count_once() -> None:
    once = share({str(i): float(i % 3 == 0) for i in range(30)})
    twice = share({f"{i}/{j}": float(i % 3 == 0) for i in range(30) for j in "ab"}, {f"{i}/{j}": str(i) for i in range(30) for j in "ab"})
    assert (twice.n_items, twice.n_clusters, twice.estimate) == (60, 30, once.estimate)
    assert twice.high - twice.low == pytest.approx(once.high - once.low, rel=0.08)  # Student's t for the normal quantile
    alone = share({"a/1": 1.0, "a/2": 0.0}, {"a/1": "a", "a/2": "a"})
    assert (alone.low, alone.high) == (0.0, 1.0)
    assert share({}).estimate is None


def test_intervals_cover_the_truth() -> None:
    """Items differ in difficulty and come in clusters of alike ones; 10 samples each; the truth is the mean over all such items."""
    random, hits, widths = np.random.default_rng(0), 0, []
    grid = np.linspace(0, 1, 2001)[1:-1]
    density = grid ** (0.6 - 1) * (1 - grid) ** (1.2 - 1)
    truth = float((density * (1 - (1 - grid) ** 3)).sum() / density.sum())
    trials, clusters, size, n, k = 400, 25, 3, 10, 3
    for _ in range(trials):
        passes = random.binomial(n, np.repeat(random.beta(0.6, 1.2, clusters), size))
        values = {str(i): pass_at_k(n, int(c), k) for i, c in enumerate(passes)}
        found = share(values, {str(i): str(i // size) for i in range(clusters * size)}, n)
        hits += found.low <= truth <= found.high
        widths.append(found.high - found.low)
    assert 0.92 <= hits / trials <= 0.985
    assert np.mean(widths) < 0.45


def test_the_table_over_temperatures_and_k() -> None:
    def one(temperature: float, rate: float, n: int = 8) -> GenerationSet:
        random = np.random.default_rng(round(10 * temperature))
        verdicts = [verdict(str(i), j, float(random.random() < rate)) for i in range(40) for j in range(n)]
        samples = [Sample(item=v.item, request=0, index=v.index, text="x", n_tokens=10 + v.index) for v in verdicts]
        return GenerationSet(temperature, n, samples, verdicts)

    sets = [one(0.2, 0.3), one(0.8, 0.25), one(0.0, 0.3, 1)]
    rows = sweep(sets, [str(i) for i in range(40)], [1, 4, 8])
    assert [(r["temperature"], r["k"]) for r in rows] == [(0.2, 1), (0.2, 4), (0.2, 8), (0.8, 1), (0.8, 4), (0.8, 8), (0.0, 1)]
    for temperature in (0.2, 0.8):
        curve = [r["estimate"] for r in rows if r["temperature"] == temperature]
        assert curve == sorted(curve) and curve[0] < 0.45 < 0.8 < curve[-1]
    assert rows[0]["tokens"] == pytest.approx(13.5) and rows[0]["missing"] == 0 and rows[0]["no_answer"] == 0.0
    cut = GenerationSet(0.2, 8, sets[0].samples[:-80], sets[0].verdicts[:-80])
    (lower,) = sweep([cut], [str(i) for i in range(40)], [8])
    assert lower["missing"] == 80 and lower["estimate"] == pytest.approx(rows[2]["estimate"] * 30 / 40, abs=0.06)


def test_empty_completions_lower_the_score() -> None:
    item = Item(
        id="i", benchmark="program", example=Example(id="i", source="s", question="q", tests=("assert f(1) == 1",), entry_point="f")
    )
    from leaven.core.step import Resources, StepContext
    from leaven.evals.harness import Setting, judge_all

    texts = ["def f(x):\n    return x\n", "", "   \n", "def f(x):\n    return 2\n"]
    samples = {"i": [Sample(item="i", request=0, index=j, text=t, n_tokens=len(t.split())) for j, t in enumerate(texts)]}
    setting = Setting(metrics=("accuracy", "pass@2", "parse_error", "tokens"), n=4, temperature=0.5)
    verdicts = list(judge_all(open_benchmark("program"), [item], samples, setting, StepContext(runtime=Resources(threads=1))))
    by_metric = {m: [v.score for v in verdicts if v.metric == m] for m in setting.metrics}
    assert by_metric["accuracy"] == [1.0, 0.0, 0.0, 0.0] and by_metric["parse_error"] == [0.0, 1.0, 1.0, 0.0]
    assert by_metric["pass@2"] == [pytest.approx(0.5)] and by_metric["tokens"] == [4.0, None, None, 4.0]
    assert [v.status for v in verdicts[:4]] == ["pass", "no_answer", "no_answer", "fail"]


def test_derived_metrics_are_known_and_checked() -> None:
    benchmark = open_benchmark("program")
    assert metrics_of(benchmark, ["pass@5", "tokens"]) == ("accuracy", "pass@5", "tokens")
    for wrong in ("pass@0", "pass@", "pass@x", "passk"):
        with pytest.raises(StudyError, match="pass@k"):
            metrics_of(benchmark, [wrong], "measure.x")
    check_k(("pass@1",), 1, 0.0)
    with pytest.raises(StudyError, match="at least 5 samples"):
        check_k(("pass@5",), 4, 0.8, "study.yaml:3 measure.x.metrics")
    with pytest.raises(StudyError, match="greedy"):
        check_k(("pass@5",), 8, 0.0)
    assert list(derived_verdicts([], {}, [], ["pass@3"], 3, "accuracy")) == []
