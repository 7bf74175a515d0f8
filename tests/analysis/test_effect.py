"""The effect rule: its exact limits, its symmetries, and its coverage."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from leaven.analysis.effect import effect
from leaven.analysis.stats import paired_t, welch_t
from leaven.errors import DataError, RefusedError

ROOT = Path(__file__).parents[2]


def scores(seed: int, n_seeds: int = 4, n_items: int = 60, share: float = 0.5) -> np.ndarray:
    return (np.random.default_rng(seed).random((n_seeds, n_items)) < share).astype(float)


def test_only_seeds_is_the_paired_t_over_seeds() -> None:
    a, b = scores(1).mean(1), scores(2).mean(1)
    found, wanted = effect(a[:, None], b[:, None], ["one"], seeds=range(4)), paired_t(a, b)
    assert (found.estimate, found.low, found.high) == pytest.approx((wanted.estimate, wanted.low, wanted.high))
    assert (found.p, found.df, found.se) == (pytest.approx(wanted.p), pytest.approx(3), pytest.approx(wanted.se))


def test_items_that_add_nothing_leave_the_paired_t_over_seeds() -> None:
    a, b = scores(1).mean(1), scores(2).mean(1)
    found, wanted = effect(np.tile(a[:, None], 30), np.tile(b[:, None], 30), range(30), seeds=range(4)), paired_t(a, b)
    assert (found.low, found.high, found.p) == pytest.approx((wanted.low, wanted.high, wanted.p))


def test_seeds_that_add_nothing_leave_the_paired_t_over_items() -> None:
    a, b = scores(1, 1, 40)[0], scores(2, 1, 40, 0.3)[0]
    wanted = paired_t(a, b)
    for n_seeds in (1, 3, 10):
        found = effect(np.tile(a, (n_seeds, 1)), np.tile(b, (n_seeds, 1)), range(40), seeds=range(n_seeds), binary=True)
        assert (found.low, found.high, found.p) == pytest.approx((wanted.low, wanted.high, wanted.p))
        assert found.high - found.low > 0.1 and found.sd_seeds == pytest.approx(0, abs=1e-9)


def test_equal_clusters_are_the_paired_t_over_cluster_means() -> None:
    a, b = scores(1, 1, 60), scores(2, 1, 60)
    clusters = np.repeat(range(12), 5)
    found = effect(a, b, clusters, seeds=[0])
    wanted = paired_t(a.reshape(12, 5).mean(1), b.reshape(12, 5).mean(1))
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert (found.n_items, found.n_clusters) == (60, 12)


def test_unequal_clusters_match_the_cluster_robust_variance_of_statsmodels() -> None:
    api = pytest.importorskip("statsmodels.api")
    clusters = np.repeat(range(30), np.random.default_rng(0).integers(1, 9, 30))
    d = scores(1, 1, len(clusters))[0] - scores(2, 1, len(clusters))[0]
    found = effect(d[None], np.zeros((1, len(d))), clusters, seeds=[0])
    fit = api.OLS(d, np.ones(len(d))).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    assert found.se == pytest.approx(float(fit.bse[0]), rel=0.04)  # the finite-sample factors differ


def test_unpaired_seeds_are_welch_when_items_add_nothing() -> None:
    a, b = scores(1, 3).mean(1), scores(2, 6).mean(1)
    found = effect(np.tile(a[:, None], 20), np.tile(b[:, None], 20), range(20), seeds=[0, 1, 2], control_seeds=range(6))
    wanted = welch_t(a, b)
    assert (found.low, found.high, found.p) == pytest.approx((wanted.low, wanted.high, wanted.p))
    assert "without pairing" in found.notes[0] and found.seed_differences == ()


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 40), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_symmetries(seed: int, n_seeds: int, n_items: int, per_cluster: int) -> None:
    a, b = scores(seed, n_seeds, n_items), scores(seed + 1, n_seeds, n_items, 0.3)
    clusters = np.arange(n_items) // per_cluster
    found, turned = effect(a, b, clusters, seeds=range(n_seeds)), effect(b, a, clusters, seeds=range(n_seeds))
    assert (found.estimate, found.low, found.high) == pytest.approx((-turned.estimate, -turned.high, -turned.low))
    order = np.random.default_rng(seed).permutation(n_items)
    shuffled = effect(a[:, order] * 3, b[:, order] * 3, clusters[order], seeds=range(n_seeds))
    assert (shuffled.low, shuffled.high, shuffled.p) == pytest.approx(
        (3 * found.low, 3 * found.high, found.p), abs=1e-9
    )
    assert found.low <= found.estimate <= found.high
    if abs(found.p - 0.05) > 1e-6:
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
    if found.se > 0 and math.isfinite(found.df):
        assert found.high - found.estimate == pytest.approx(scipy_stats.t.isf(0.025, found.df) * found.se, rel=1e-4)


def test_copies_of_items_in_one_cluster_do_not_narrow_the_interval() -> None:
    a, b = scores(1), scores(2)
    once = effect(a, b, range(60), seeds=range(4))
    copied = effect(np.repeat(a, 5, 1), np.repeat(b, 5, 1), np.repeat(range(60), 5), seeds=range(4))
    naive = effect(np.repeat(a, 5, 1), np.repeat(b, 5, 1), range(300), seeds=range(4))
    assert copied.high - copied.low == pytest.approx(once.high - once.low)
    assert naive.se < 0.8 * once.se


def test_identical_outcomes_are_not_certainty() -> None:
    ones = np.ones((4, 50))
    found = effect(ones, ones, range(50), seeds=range(4), binary=True)
    assert 0.02 < found.high < 0.06 and "the same" in found.notes[0] and found.p == 1.0
    flat = effect(ones * 0.5, ones * 0.5, range(50), seeds=range(4))
    assert flat.low == flat.high == 0 and "no width" in flat.notes[0]


def test_faults() -> None:
    with pytest.raises(RefusedError, match="one of each"):
        effect(np.ones((1, 3)), np.zeros((1, 3)), ["x"] * 3, seeds=[0])
    with pytest.raises(RefusedError, match="at least 2 seeds on each side"):
        effect(np.ones((1, 3)), np.zeros((2, 3)), range(3), seeds=[0], control_seeds=[0, 1])
    with pytest.raises(DataError, match="treatment: expected scores"):
        effect(np.ones((2, 3)), np.ones((2, 4)), range(4), seeds=[0, 1])
    with pytest.raises(DataError, match="not finite"):
        effect(np.full((2, 3), np.nan), np.ones((2, 3)), range(3), seeds=[0, 1])


def simulation() -> ModuleType:
    path = ROOT / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_simulation", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("n_seeds", [3, 4, 5, 10])
def test_coverage_is_nominal(n_seeds: int) -> None:
    """93-97 %, widened by 3 Monte-Carlo standard errors of 1,500 replications (0.56 points each)."""
    module = simulation()
    for name in ("60 clusters of 5", "strong clusters", "30 independent items"):
        regime = next(r for r in module.REGIMES if r.name == name)
        cell = module.cell(regime, n_seeds, 1500)
        slack = 3 * cell["monte_carlo_se"]
        assert 0.93 - slack <= cell["ours"] <= 0.97 + slack, cell
        assert cell["seed_bootstrap"] < 0.9, cell


@pytest.mark.slow
def test_coverage_everywhere() -> None:
    """Every cell of the committed simulation at 4,000 replications, within 3 Monte-Carlo standard errors of 93-97 %."""
    module = simulation()
    for regime in module.REGIMES:
        for n_seeds in module.SEEDS:
            cell = module.cell(regime, n_seeds, 4000, seed=1)
            slack = 3 * cell["monte_carlo_se"]
            assert 0.93 - slack <= cell["ours"] <= 0.97 + slack, cell


def test_committed_simulation_shows_the_claim() -> None:
    cells = json.loads((ROOT / "benchmarks" / "results" / "coverage.json").read_text())["cells"]
    assert {c["seeds"] for c in cells} == {3, 4, 5, 10} and all(c["replications"] >= 4000 for c in cells)
    for c in [c for c in cells if not c["extreme"]]:
        assert 0.93 <= c["ours"] <= 0.97, c
    assert np.mean([c["pooled_wilson"] for c in cells if c["seeds"] == 4 and not c["extreme"]]) < 0.8
