"""Known populations of seeds, item clusters and items -> how often each 95 % interval holds the true effect.

    python benchmarks/coverage.py            writes benchmarks/results/coverage.json (about two CPU-minutes)

Pass/fail scores come from a probit model: fixed pass rates, random effects of seed, item cluster, item, and their
interactions with the condition. The marginal pass rates are exact, so the true effect is known. Three intervals are
judged in every cell: ours (effect.py), the pooled two-proportion score interval (Newcombe 1998, two Wilson intervals
over all seeds x items), and the percentile bootstrap over per-seed differences (all S^S resamples up to 4 seeds,
1,000 drawn ones above). Not covered: fewer than 20 clusters in the judged regimes; the extreme regimes are reported
beside them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from leaven.analysis.effect import paired_parts
from leaven.core.rng import rng

SEEDS = (3, 4, 5, 10)
CHUNK_CELLS = 3_000_000
BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True, slots=True)
class Regime:
    """One population. `sizes`: items per cluster; standard deviations are on the probit scale, where one item's own
    noise is 1."""

    name: str
    sizes: tuple[int, ...]
    p_treatment: float
    p_control: float
    seed: float = 0.1
    cluster: float = 0.5
    item: float = 0.7
    cluster_by_condition: float = 0.3
    seed_by_cluster: float = 0.2
    extreme: bool = False

    @property
    def effect(self) -> float:
        """Return the true difference of pass rates."""
        return self.p_treatment - self.p_control


REGIMES = (
    Regime("60 clusters of 5", (5,) * 60, 0.35, 0.30),
    Regime("no difference", (2,) * 100, 0.50, 0.50, seed=0.15),
    Regime("seeds matter little", (5,) * 60, 0.35, 0.30, seed=0.02),
    Regime("seeds matter most", (5,) * 60, 0.35, 0.30, seed=0.3),
    Regime("strong clusters", (10,) * 20, 0.35, 0.30, cluster=1.0, cluster_by_condition=0.6),
    Regime("seed by cluster", (10,) * 30, 0.50, 0.50, seed_by_cluster=0.6),
    Regime("unequal clusters", (1, 1, 2, 2, 3, 4, 5, 8, 12, 20) * 4, 0.35, 0.30),
    Regime("large effect", (5,) * 60, 0.967, 0.35, seed=0.2),
    Regime("near the ceiling", (5,) * 60, 0.97, 0.95),
    Regime("400 independent items", (1,) * 400, 0.35, 0.30),
    Regime("30 independent items", (1,) * 30, 0.35, 0.30),
    Regime("30 items near the ceiling", (1,) * 30, 0.97, 0.95, extreme=True),
    Regime("6 clusters of 5", (5,) * 6, 0.35, 0.30, extreme=True),
    Regime("10 very unequal clusters", (1, 1, 2, 2, 3, 4, 5, 8, 12, 20), 0.35, 0.30, extreme=True),
)


def draw(
    regime: Regime, n_seeds: int, replications: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pass/fail scores of treatment and control [R, S, N] and the cluster of each item [N]."""
    clusters = np.repeat(np.arange(len(regime.sizes)), regime.sizes)
    n_clusters, n_items = len(regime.sizes), len(clusters)

    def normal(sd: float, *shape: int) -> np.ndarray:
        """Return normal draws with standard deviation `sd`."""
        return np.float32(sd) * generator.standard_normal((replications, *shape), dtype=np.float32)

    total = math.sqrt(
        1
        + regime.seed**2
        + regime.cluster**2
        + regime.item**2
        + regime.cluster_by_condition**2
        + regime.seed_by_cluster**2
    )
    shared = normal(regime.cluster, 1, n_clusters)[:, :, clusters] + normal(regime.item, 1, n_items)
    sides = []
    for share in (regime.p_treatment, regime.p_control):
        grouped = normal(regime.cluster_by_condition, 1, n_clusters) + normal(
            regime.seed_by_cluster, n_seeds, n_clusters
        )
        latent = shared + grouped[:, :, clusters] + normal(regime.seed, n_seeds, 1) + normal(1.0, n_seeds, n_items)
        sides.append((latent > -float(scipy_stats.norm.ppf(share)) * total).astype(np.float32))
    return sides[0], sides[1], clusters


def hits(regime: Regime, n_seeds: int, replications: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Return, per interval, whether it held the true effect in each replication, and its half-width (`*_half`)."""
    treatment, control, clusters = draw(regime, n_seeds, replications, generator)
    difference = treatment - control
    per_seed = difference.mean(2)
    estimate = per_seed.mean(1).astype(float)
    half = paired_parts(difference, clusters).half_width()
    low, high = newcombe(treatment.sum((1, 2)), control.sum((1, 2)), n_seeds * len(clusters))
    if n_seeds**n_seeds <= BOOTSTRAP_DRAWS:
        picks = np.array(list(itertools.product(range(n_seeds), repeat=n_seeds)))
    else:
        picks = generator.integers(0, n_seeds, (BOOTSTRAP_DRAWS, n_seeds))
    resampled = per_seed[:, picks].mean(2)
    boot_low, boot_high = np.quantile(resampled, (0.025, 0.975), axis=1)
    truth, slack = regime.effect, 1e-6  # float32 means of identical numbers may differ in the last place
    return {
        "ours": np.abs(estimate - truth) <= half + slack,
        "pooled_wilson": (low <= truth) & (truth <= high),
        "seed_bootstrap": (boot_low <= truth + slack) & (truth - slack <= boot_high),
        "ours_half": half,
    }


def newcombe(k_treatment: np.ndarray, k_control: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the score interval of a difference of two proportions of `n` trials each (Newcombe 1998, method 10)."""
    z = float(scipy_stats.norm.isf(0.025))
    bounds = []
    for k in (k_treatment, k_control):
        p = k / n
        middle, reach = (
            (p + z * z / (2 * n)) / (1 + z * z / n),
            z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)),
        )
        bounds.append((p, middle - reach, middle + reach))
    (p1, l1, u1), (p2, l2, u2) = bounds
    return p1 - p2 - np.hypot(p1 - l1, u2 - p2), p1 - p2 + np.hypot(u1 - p1, p2 - l2)


def cell(regime: Regime, n_seeds: int, replications: int, seed: int = 0) -> dict[str, Any]:
    """Return the coverage of every interval in one regime at one number of seeds."""
    generator = rng(seed, "coverage", regime.name, n_seeds)
    size = max(1, min(replications, CHUNK_CELLS // (n_seeds * sum(regime.sizes))))
    chunks = [
        hits(regime, n_seeds, min(size, replications - start), generator) for start in range(0, replications, size)
    ]
    joined = {k: np.concatenate([c[k] for c in chunks]) for k in chunks[0]}
    return {
        "regime": regime.name,
        "extreme": regime.extreme,
        "seeds": n_seeds,
        "items": sum(regime.sizes),
        "clusters": len(regime.sizes),
        "effect": round(regime.effect, 6),
        "replications": replications,
        **{k: round(float(joined[k].mean()), 4) for k in ("ours", "pooled_wilson", "seed_bootstrap")},
        "ours_mean_half_width": round(float(joined["ours_half"].mean()), 4),
        "monte_carlo_se": round(math.sqrt(0.95 * 0.05 / replications), 4),
    }


def main() -> None:
    """Run every cell and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--replications", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "coverage.json")
    options = parser.parse_args()
    start = time.process_time()
    cells = [cell(regime, n, options.replications) for regime in REGIMES for n in SEEDS]
    judged = [c for c in cells if not c["extreme"]]
    summary = {
        name: {
            str(n): {"min": min(v), "mean": round(sum(v) / len(v), 4), "max": max(v)}
            for n in SEEDS
            for v in [[c[name] for c in judged if c["seeds"] == n]]
        }
        for name in ("ours", "pooled_wilson", "seed_bootstrap")
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps(
            {
                "what": "share of replications whose 95 % interval holds the true effect",
                "summary": summary,
                "cells": cells,
            },
            indent=1,
        )
        + "\n"
    )
    for c in cells:
        print(
            f"{c['regime']:28s} {c['seeds']:3d} seeds  ours {c['ours']:.3f}  pooled Wilson {c['pooled_wilson']:.3f}  "
            f"seed bootstrap {c['seed_bootstrap']:.3f}{'  (extreme)' if c['extreme'] else ''}"
        )
    print(json.dumps(summary["ours"]), f"{time.process_time() - start:.0f} CPU-seconds")


if __name__ == "__main__":
    main()
