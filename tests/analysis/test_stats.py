"""Textbook statistics against scipy, statsmodels and the published Table 13."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from leaven.analysis.stats import holm, mcnemar, paired_t, sample_sd, t_interval, welch_t, wilson
from leaven.errors import DataError

WITHOUT = [69.19, 70.06, 70.34, 70.48, 70.83]
FOLLOW = [64.88, 66.54, 66.03, 66.38, 65.84]
PRECEDE = [71.49, 71.18, 71.82, 71.14, 70.96]


def test_reproduces_table_13() -> None:
    against_follow, against_without = welch_t(PRECEDE, FOLLOW), welch_t(PRECEDE, WITHOUT)
    assert (round(against_follow.t, 2), round(against_follow.df, 2)) == (16.40, 6.02)
    assert against_follow.p == pytest.approx(3.16e-6, rel=1e-3)
    assert (round(against_without.t, 3), round(against_without.p, 4)) == (3.605, 0.0107)
    paired = paired_t(PRECEDE, WITHOUT)
    assert (round(paired.t, 3), round(paired.p, 4)) == (3.090, 0.0366)
    assert [round(sample_sd(x), 3) for x in (WITHOUT, FOLLOW, PRECEDE)] == [0.619, 0.651, 0.339]


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=60, deadline=None)
def test_wilson_equals_statsmodels(counts: tuple[int, int]) -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    k, n = counts
    found = wilson(k, n)
    low, high = proportion.proportion_confint(k, n, method="wilson")
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))
    assert 0 <= found.low <= found.estimate <= found.high <= 1


def test_t_tests_equal_scipy() -> None:
    generator = np.random.default_rng(0)
    a, b, c = generator.normal(1, 2, 7), generator.normal(0, 1, 7), generator.normal(0, 3, 12)
    paired, welch = paired_t(a, b), welch_t(a, c)
    wanted = scipy_stats.ttest_rel(a, b)
    assert (paired.t, paired.p) == (pytest.approx(wanted.statistic), pytest.approx(wanted.pvalue))
    assert (paired.low, paired.high) == pytest.approx(tuple(wanted.confidence_interval()))
    wanted = scipy_stats.ttest_ind(a, c, equal_var=False)
    assert (welch.t, welch.p, welch.df) == (
        pytest.approx(wanted.statistic),
        pytest.approx(wanted.pvalue),
        pytest.approx(wanted.df),
    )
    found = t_interval(a)
    assert (found.low, found.high) == pytest.approx(scipy_stats.t.interval(0.95, 6, a.mean(), scipy_stats.sem(a)))


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (5, 12), (20, 4), (30, 30)])
def test_mcnemar_equals_statsmodels(only_a: int, only_b: int) -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    found = mcnemar(only_a, only_b)
    assert found.p_exact == pytest.approx(tables.mcnemar([[9, only_a], [only_b, 9]], exact=True).pvalue)
    if only_a != only_b:
        assert found.p_chi2 == pytest.approx(tables.mcnemar([[9, only_a], [only_b, 9]], exact=False).pvalue)
    assert found.p_mid <= found.p_exact


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_holm_equals_statsmodels(values: list[float]) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    assert holm(values) == pytest.approx(list(multitest.multipletests(values, method="holm")[1]), abs=1e-12)


def test_faults_name_what_they_found() -> None:
    with pytest.raises(DataError, match="k=5, n=3"):
        wilson(5, 3)
    with pytest.raises(DataError, match="found 1"):
        sample_sd([1.0])
    with pytest.raises(DataError, match="2 and 3"):
        paired_t([1, 2], [1, 2, 3])
    assert math.isinf(paired_t([2, 2], [1, 1]).t) and paired_t([1, 1], [1, 1]).p == 1.0
