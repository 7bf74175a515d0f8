"""Hand-made inputs of the sections on the order of thought and code, of the size of a real study of eight conditions."""

from __future__ import annotations

import math

from leaven.reporting.sections.inputs import (
    AttentionMap,
    CheckpointScore,
    Difference,
    Distribution,
    Effect,
    FunnelRow,
    GradientNorm,
    Measured,
    OrderInputs,
    PassAtK,
    Perturbation,
    Region,
    RegionMass,
    StrategyResult,
    VerdictChange,
)

SEEDS = (0, 1, 2, 3, 4)
STRATEGIES = {
    "seed": "seed",
    "code_only": "code_only",
    "thought_code": "thought_code",
    "code_thought": "code_thought",
    "mixed": "mixed",
    "filler_code": "filler_code",
    "no_signature": "code_thought+no_signature",
    "no_comments": "code_thought+no_comments",
}
MEANS = {
    "seed": 0.31,
    "code_only": 0.46,
    "thought_code": 0.83,
    "code_thought": 0.52,
    "mixed": 0.64,
    "filler_code": 0.44,
    "no_signature": 0.38,
    "no_comments": 0.515,
}
BENCHMARKS = {"functions": "programs", "functions_long": "programs", "mbpp_plus": "mbpp_plus"}


def runs_of(condition: str) -> tuple[str, ...]:
    """Return ids like those that made.py gives its runs."""
    return tuple(f"{condition}/seed-{s}/lists" for s in SEEDS)


def share(value: float, half: float = 0.03, n: int = 240, condition: str = "") -> Measured:
    value = min(max(value, 0.0), 1.0)
    low, high = max(0.0, value - half), min(1.0, value + half)
    return Measured(estimate=value, low=low, high=high, n=n, seeds=SEEDS, runs=runs_of(condition) if condition else ())


def plain(value: float, half: float, n: int = 512) -> Measured:
    return Measured(estimate=value, low=value - half, high=value + half, n=n, seeds=SEEDS)


def made_order(strategies: dict[str, str] | None = None) -> OrderInputs:
    """Return every input filled, for `strategies` (eight conditions unless given)."""
    strategies = STRATEGIES if strategies is None else strategies
    names = list(strategies)
    return OrderInputs(
        strategies=strategies,
        results=_results(names),
        distributions=_distributions(names),
        differences=_differences(names),
        attention=tuple(_attention(n, strategies[n]) for n in names),
        gradients=_gradients(names[2:4] or names),
        funnel=FUNNEL,
        perturbations=PERTURBATIONS,
        checkpoints=_checkpoints(names),
        pass_at_k=_pass_at_k(names),
        effects=EFFECTS,
        paper=True,
        model="llama 64 x 3, 1.1 M parameters, from scratch",
        benchmark_kinds=BENCHMARKS,
    )


def _mean(name: str, names: list[str]) -> float:
    return MEANS.get(name, 0.2 + 0.6 * names.index(name) / len(names))


def _results(names: list[str]) -> tuple[StrategyResult, ...]:
    rows = []
    for i, name in enumerate(names):
        for b, benchmark in enumerate(BENCHMARKS):
            mean = _mean(name, names) - 0.12 * b
            written = 38 + 31 * (i % 3) + 12 * b
            rows.append(
                StrategyResult(
                    condition=name,
                    benchmark=benchmark,
                    score=share(mean, condition=name),
                    trained_tokens=1_480_000 + 210_000 * i,
                    learned_tokens=910_000 + 150_000 * i,
                    generated_tokens=Measured(estimate=written, low=written - 1.4, high=written + 1.4, n=1200, seeds=SEEDS),
                    parse_failures=share(0.004 + 0.011 * i, 0.004, 1200),
                )
            )
        for d in range(1, 7):
            at = 1 - (1 - _mean(name, names)) * d / 2.6
            rows.append(StrategyResult(condition=name, benchmark="functions", difficulty=d, score=share(at, 0.06, 40)))
    return tuple(rows)


def histogram(mean: float, sd: float, n: int = 512, skew: float = 0.0, low: float = 0.0) -> dict[str, object]:
    """Return edges and counts of a skewed bell, as the analysis gives them."""
    width = sd / 4
    first = max(low, mean - 3.6 * sd)
    edges = tuple(round(first + width * i, 6) for i in range(31))
    counts = []
    for a, b in zip(edges, edges[1:], strict=False):
        z = ((a + b) / 2 - mean) / sd
        density = math.exp(-0.5 * z * z) * (1 + math.tanh(skew * z))
        counts.append(round(n * density * width / (sd * math.sqrt(2 * math.pi))))
    return {"edges": edges, "counts": tuple(float(c) for c in counts)}


def _distributions(names: list[str]) -> tuple[Distribution, ...]:
    rows = []
    for i, name in enumerate(n for n in names if n in ("thought_code", "code_thought") or n not in MEANS):
        first, second = ("thought", "code") if "thought_code" in name or i % 2 == 0 else ("code", "thought")
        gap = 1.3 if first == "thought" else 0.35
        for part, given, mean, sd in ((first, "prompt", 2.1 + gap, 0.42), (second, f"prompt and {first}", 2.1, 0.24)):
            rows.append(
                Distribution(
                    measure="perplexity",
                    condition=name,
                    part=part,
                    given=given,
                    mean=plain(mean, 0.03),
                    sd=sd,
                    **histogram(mean, sd, skew=0.5, low=1.0),
                )
            )
    for i, name in enumerate(names):
        rows.append(
            Distribution(
                measure="kl",
                condition=name,
                unit="nats per token",
                mean=plain(0.21 + 0.012 * i, 0.006),
                sd=0.05,
                **histogram(0.21 + 0.012 * i, 0.05),
            )
        )
        rows.append(
            Distribution(
                measure="validation_loss",
                condition=name,
                unit="nats per token",
                mean=plain(0.62 - 0.03 * (i % 4), 0.011),
                sd=0.11,
                **histogram(0.62 - 0.03 * (i % 4), 0.11, skew=0.4),
            )
        )
    for name in names[2:4]:
        for part, mean in (("code", 0.41), ("thought", 0.66)):
            rows.append(
                Distribution(measure="similarity", condition=name, part=part, mean=plain(mean, 0.008), sd=0.09, **histogram(mean, 0.09))
            )
    return tuple(rows)


def _differences(names: list[str]) -> tuple[Difference, ...]:
    both = [n for n in ("thought_code", "code_thought") if n in names]
    gaps = tuple(
        Difference(
            measure="perplexity",
            condition=name,
            label="first part minus second part",
            effect=plain(1.3 if name == "thought_code" else 0.35, 0.04),
            p=1e-9,
            test="paired t",
        )
        for name in both
    )
    if len(both) < 2:
        return gaps
    loss = Difference(
        measure="validation_loss", label="code_thought minus thought_code", effect=plain(-0.031, 0.012), p=0.002, test="paired t"
    )
    return (*gaps, loss)


def _attention(name: str, strategy: str) -> AttentionMap:
    size = 24
    order = ("prompt", "code", "thought") if strategy.startswith("code_thought") else ("prompt", "thought", "code")
    order = order if "thought" in strategy or strategy == "mixed" else ("prompt", "code")
    bounds = (0.0, 7.0, 15.0, float(size)) if len(order) == 3 else (0.0, 9.0, float(size))
    grid = []
    for r in range(size):
        row = [math.exp(-(r - c) / 3.5) + 0.35 * (c == 0) + 0.06 * (c % 5 == 2) if c <= r else 0.0 for c in range(size)]
        grid.append(tuple(v / sum(row) for v in row))
    masses = []
    for q, query in enumerate(order):
        weights = [1.0 if k == q else 0.45 / (1 + q - k) if k < q else 0.0 for k in range(len(order))]
        for key, weight in zip(order, weights, strict=True):
            masses.append(RegionMass(query=query, key=key, share=share(weight / sum(weights), 0.012, 256)))
    regions = tuple(Region(name=n, start=a, end=b) for n, a, b in zip(order, bounds, bounds[1:], strict=False))
    return AttentionMap(condition=name, grid=tuple(grid), regions=regions, masses=tuple(masses), n=256, seeds=SEEDS)


def _gradients(names: list[str]) -> tuple[GradientNorm, ...]:
    base = {"q": 0.04, "k": 0.035, "v": 0.11, "o": 0.13}
    rows = []
    for name in names:
        for part, factor in (("thought", 1.0), ("code", 0.55)):
            for projection, size in base.items():
                for layer in range(6):
                    value = size * factor * (1 + 0.6 * math.sin(layer * 1.3) ** 2)
                    norm = plain(value, 0.09 * value, 256)
                    rows.append(GradientNorm(condition=name, part=part, projection=projection, layer=layer, norm=norm))
    return tuple(rows)


FUNNEL = (
    FunnelRow(
        source="leetcode_train",
        total=2641,
        filtered=2210,
        consistent=1987,
        reasons={"filter: no function": 301, "filter: too short": 130, "tests: an assert failed": 190, "tests: timeout_cpu": 33},
    ),
    FunnelRow(
        source="evol_code",
        total=9800,
        filtered=2904,
        consistent=1503,
        reasons={"filter: does not parse": 4120, "filter: not Python": 2776, "tests: an assert failed": 1203, "tests: error": 198},
    ),
)

PERTURBATIONS = (
    Perturbation(
        operation="remove_signature",
        changed=3120,
        unchanged=0,
        skipped=210,
        refused=14,
        reasons={"no function at the top": 180, "two functions": 30, "tests still pass": 14},
        verdicts=(VerdictChange(before="pass", after="error", n=3106), VerdictChange(before="pass", after="pass", n=14)),
        seeds=SEEDS,
    ),
    Perturbation(
        operation="rename_identifiers",
        changed=3301,
        unchanged=12,
        skipped=20,
        refused=11,
        reasons={"uses eval": 20, "a test failed after renaming": 11},
        verdicts=(
            VerdictChange(before="pass", after="pass", n=3301),
            VerdictChange(before="pass", after="fail", n=9),
            VerdictChange(before="pass", after="error", n=2),
            VerdictChange(before="fail", after="fail", n=12),
        ),
        seeds=SEEDS,
    ),
    Perturbation(operation="remove_comments", changed=1880, unchanged=1464, target="scored solutions", seeds=SEEDS),
)


def _checkpoints(names: list[str]) -> tuple[CheckpointScore, ...]:
    rows = []
    for name in names:
        mean = _mean(name, names)
        for step in range(50, 601, 50):
            at = mean * (1 - math.exp(-step / 160))
            seeds = tuple(at + d for d in (-0.03, -0.01, 0.0, 0.01, 0.03))
            rows.append(CheckpointScore(condition=name, benchmark="functions", step=step, score=share(at), per_seed=seeds))
    for name in [n for n in ("code_only", "thought_code", "code_thought") if n in names]:
        for setting, factor in (("0.0005", 0.7), ("0.001", 0.9), ("0.002", 1.0), ("0.004", 0.96)):
            for tenth in range(1, 11):
                at = factor * _mean(name, names) * (1 - math.exp(-tenth / 3))
                rows.append(
                    CheckpointScore(
                        condition=name,
                        benchmark="functions",
                        step=tenth / 10,
                        score=share(at),
                        sweep="learning rate",
                        setting=setting,
                    )
                )
    return tuple(rows)


def _pass_at_k(names: list[str]) -> tuple[PassAtK, ...]:
    return tuple(
        PassAtK(
            condition=name,
            benchmark="functions",
            temperature=t,
            k=k,
            score=share(1 - (1 - _mean(name, names) * (1.05 - 0.35 * t)) ** (1 + 0.5 * math.log2(k)), 0.028),
        )
        for name in names
        if name in ("code_only", "thought_code", "code_thought") or name not in MEANS
        for t in (0.2, 0.6, 1.0)
        for k in (1, 2, 5, 10, 20)
    )


EFFECTS = (
    Effect(
        treatment="thought_code",
        control="code_thought",
        measure="pass_rate",
        benchmark="functions",
        effect=Measured(estimate=0.31, low=0.27, high=0.35, n=240, seeds=SEEDS, runs=runs_of("thought_code")),
        decision="favours",
        binary=True,
    ),
    Effect(
        treatment="code_thought",
        control="code_only",
        measure="pass_rate",
        benchmark="functions",
        effect=Measured(estimate=0.06, low=0.02, high=0.10, n=240, seeds=SEEDS),
        decision="favours",
        binary=True,
    ),
    *(
        Effect(
            treatment="code_thought",
            control="code_only",
            measure="pass_rate",
            benchmark="functions",
            scope=f"difficulty {d}",
            effect=Measured(estimate=0.05, low=0.05 - 0.02 * d, high=0.05 + 0.02 * d, n=40, seeds=SEEDS),
            decision="favours" if d < 3 else "inconclusive",
            binary=True,
        )
        for d in range(1, 5)
    ),
    Effect(
        treatment="code_thought",
        control="thought_code",
        measure="perplexity_gap",
        effect=Measured(estimate=-0.95, low=-1.0, high=-0.9, n=512, seeds=SEEDS),
    ),
    Effect(
        treatment="code_thought",
        control="thought_code",
        measure="kl",
        effect=Measured(estimate=0.012, low=-0.004, high=0.028, n=512, seeds=SEEDS),
    ),
    Effect(
        treatment="part:code",
        control="part:thought",
        measure="gradient_norm",
        scope="condition thought_code",
        effect=Measured(estimate=-0.03, low=-0.034, high=-0.026, n=256, seeds=SEEDS),
    ),
    Effect(
        treatment="code_thought+no_signature",
        control="code_thought",
        measure="pass_rate",
        benchmark="functions",
        effect=Measured(estimate=-0.14, low=-0.18, high=-0.10, n=240, seeds=SEEDS),
        decision="opposes",
        binary=True,
    ),
    Effect(
        treatment="mixed",
        control="thought_code",
        measure="pass_rate",
        benchmark="functions_easy",
        effect=Measured(estimate=-0.01, low=-0.02, high=0.0, n=240, seeds=SEEDS),
        unfit="thought_code at 0.99 leaves no room",
        binary=True,
    ),
)
