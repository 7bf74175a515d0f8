"""Minimum detectable effects against statsmodels and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from leaven.analysis.effect import effect
from leaven.analysis.power import (
    Spread,
    binary_difference_sd,
    minimum_detectable_effect,
    needed_clusters,
    needed_seeds,
    planned_mde,
)
from leaven.errors import DataError


@pytest.mark.parametrize("n", [3, 4, 11, 60])
def test_equals_the_power_of_the_t_test(n: int) -> None:
    power = pytest.importorskip("statsmodels.stats.power")
    wanted = power.TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert minimum_detectable_effect(1 / math.sqrt(n), n - 1) == pytest.approx(wanted, rel=1e-4)
    assert planned_mde(n, 1, Spread(1, 0, 0)) == pytest.approx(wanted, rel=1e-3)
    assert planned_mde(1, n, Spread(0, 1, 0)) == pytest.approx(wanted, rel=1e-3)


def test_a_plan_keeps_its_promise() -> None:
    spread = Spread(seeds=0.02, clusters=0.1, both=0.3)
    true = planned_mde(4, 60, spread)
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(400):
        d = (
            true
            + spread.seeds * generator.standard_normal((4, 1))
            + spread.clusters * generator.standard_normal((1, 60))
            + spread.both * generator.standard_normal((4, 60))
        )
        found += effect(d, np.zeros_like(d), range(60), seeds=range(4)).low > 0
    assert 0.72 <= found / 400 <= 0.9  # 80 %, Monte-Carlo error 2 points, planning by expected variances


def test_needed_is_the_fewest() -> None:
    spread = Spread(seeds=0.02, clusters=0.2, both=0.3)
    seeds, clusters = needed_seeds(0.08, 100, spread), needed_clusters(0.08, 4, spread)
    assert seeds and planned_mde(seeds, 100, spread) <= 0.08 < planned_mde(seeds - 1, 100, spread)
    assert clusters and planned_mde(4, clusters, spread) <= 0.08 < planned_mde(4, clusters - 1, spread)
    assert needed_clusters(0.001, 3, spread) is None and needed_seeds(0.001, 20, spread) is None


def test_sizes_of_binary_differences() -> None:
    assert binary_difference_sd(0.5, 0.5) == pytest.approx(math.sqrt(0.5))
    assert binary_difference_sd(0.5, 0.5, correlation=1.0) == 0
    with pytest.raises(DataError, match="p_control"):
        binary_difference_sd(0.5, 1.5)
    with pytest.raises(DataError, match="at least 2 seeds or 2 item clusters"):
        planned_mde(1, 1, Spread(1, 1, 1))
    assert minimum_detectable_effect(0.0, 3) == 0
