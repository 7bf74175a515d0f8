"""Hand-made report facts: the shape of a quickstart study without running one."""

from __future__ import annotations

import math
from dataclasses import replace

from leaven.core.types import Finding
from leaven.reporting.facts import Condition, Curve, Mixture, Output, ReportData, Run, Score, Shown

NAMES = ("code_only", "thought_code", "code_thought", "code_only_tokens")
SEEDS = (0, 1, 2, 3)
HOSTILE = "</pre><script>alert('x')</script><img src=http://example.invalid/x.png onerror=alert(1)>"
MEANS = {"code_only": 0.354, "thought_code": 0.967, "code_thought": 0.318, "code_only_tokens": 0.47}


def made(names: tuple[str, ...] = NAMES, *, output: str = HOSTILE) -> ReportData:
    """Return facts of a study with `names` as conditions; the first two make the primary contrast."""
    means = {n: MEANS.get(n, 0.2 + 0.6 * i / len(names)) for i, n in enumerate(names)}
    runs = tuple(
        Run(
            id=f"{n}/seed-{s}/lists",
            condition=n,
            seed=s,
            benchmark="lists",
            node=f"evaluate/{n}/seed-{s}/lists",
            key=f"{(i * 16 + s) * 2654435761 % 16**12:012x}" * 5,
        )
        for i, n in enumerate(names)
        for s in SEEDS
    )
    return ReportData(
        study="quickstart",
        question="Does a small model that writes its thought before the program solve more problems than one that "
        "writes the program alone?",
        answer="Yes: thought_code raises lists accuracy over code_only, 96.7 % against 35.4 %, by 61.3 points "
        "[95 % interval +55.4 to +67.2], p < 0.0001 (Holm, 4 contrasts); 240 items, 4 seeds a side.",
        version="0.1.0",
        lock_digest="9f2c" * 16,
        primary="thought first",
        conditions=tuple(
            Condition(
                name=n,
                description={
                    "code_only": "The program alone",
                    "thought_code": "Thought, then program",
                    "code_thought": "Program, then thought as its explanation",
                    "code_only_tokens": "The program alone, trained on as many tokens as thought_code",
                }.get(n, ""),
            )
            for n in names
        ),
        contrasts=_contrasts(names, means),
        scores=_scores(names, means),
        curves=_curves(names),
        mixtures=tuple(
            Mixture(condition=n, stage="sft", source="lists", planned=22400, realised=22400, seeds=SEEDS) for n in names
        ),
        samples=tuple(_shown(k, names, output) for k in (1, 3, 6)),
        samples_total=240,
        differences=(
            ("data.stages.sft.format", {n: n.removesuffix("_tokens") for n in names}),
            ("data.stages.sft.budget.tokens_of", {n: "thought_code" if n.endswith("_tokens") else None for n in names}),
        ),
        warnings=("Conditions differ in trained tokens by a factor of 3.1; code_only_tokens is the matched one.",),
        licences=(
            {
                "source": "lists",
                "licence": "Apache-2.0",
                "n_examples": 22400,
                "origin": "made by leaven (world: list_ops)",
            },
        ),
        runs=runs,
        fingerprints=({"python": "3.11.9", "torch": "2.6.0", "processor": "x86_64, 2 cores", "threads": 1},),
        seeds=SEEDS,
        benchmarks=(
            {
                "name": "lists",
                "benchmark": "programs",
                "n": 1,
                "temperature": 0.0,
                "max_new_tokens": 96,
                "difficulty_unit": "operations",
            },
        ),
        facts={
            "model": {"kind": "tiny", "width": 64, "layers": 3, "heads": 4},
            "train": {
                "lr": 0.004,
                "betas": [0.9, 0.95],
                "schedule": "constant",
                "warmup_steps": 20,
                "weight_decay": 0.0,
                "clip": 1.0,
                "dtype": "fp32",
            },
            "stages": {
                "sft": {
                    "mixture": {"lists": 1.0},
                    "unit": "examples",
                    "budget": {"steps": 350},
                    "batch": 64,
                    "max_tokens": 128,
                    "truncate": "error",
                }
            },
        },
    )


def _contrasts(names: tuple[str, ...], means: dict[str, float]) -> tuple[Finding, ...]:
    if len(names) < 2:
        return ()
    pairs = [("thought first", names[1], names[0])] + [(f"{n} vs {names[0]}", n, names[0]) for n in names[2:]]
    rows = []
    for name, treatment, control in pairs:
        effect = means[treatment] - means[control]
        decision = "favours" if effect > 0.05 else "opposes" if effect < -0.05 else "inconclusive"
        rows.append(
            Finding(
                id=name,
                kind="contrast",
                title=f"{treatment} vs {control}: accuracy on lists",
                estimate=effect,
                low=effect - 0.059,
                high=effect + 0.059,
                p=0.0001,
                p_holm=0.0004,
                mde=0.042,
                n_items=240,
                n_clusters=240,
                seeds=SEEDS,
                decision=decision,
                runs=tuple(f"{n}/seed-{s}/lists" for n in (treatment, control) for s in SEEDS),
                data={
                    "treatment": treatment,
                    "control": control,
                    "benchmark": "lists",
                    "metric": "accuracy",
                    "level": "{}",
                    "binary": True,
                    "direction": "higher",
                    "seed_differences": [effect + d for d in (-0.02, 0.01, -0.01, 0.02)],
                },
            )
        )
    return tuple(rows)


def _scores(names: tuple[str, ...], means: dict[str, float]) -> tuple[Score, ...]:
    rows = []
    for name in names:
        mean = means[name]
        runs = tuple(f"{name}/seed-{s}/lists" for s in SEEDS)
        shared = {"condition": name, "benchmark": "lists", "binary": True, "seeds": SEEDS, "runs": runs}
        rows.append(
            Score(
                **shared,
                seen=None,
                estimate=mean,
                low=mean - 0.04,
                high=min(1, mean + 0.04),
                n_items=240,
                n_clusters=240,
                per_seed=tuple(min(1.0, mean + d) for d in (-0.021, -0.004, 0.009, 0.016)),
            )
        )
        for depth in range(1, 7):
            at = max(0.0, 1 - (1 - mean) * depth / 2.2) if mean < 0.9 else 1 - 0.012 * depth
            rows.append(
                Score(
                    **shared,
                    difficulty=depth,
                    seen=depth < 3,
                    estimate=at,
                    low=max(0.0, at - 0.07),
                    high=min(1.0, at + 0.07),
                    n_items=40,
                    n_clusters=40,
                )
            )
    return tuple(rows)


def _curves(names: tuple[str, ...]) -> tuple[Curve, ...]:
    return tuple(
        Curve(
            condition=n,
            seed=s,
            stage="sft",
            level="{}",
            points=tuple(
                (float(4 * k), 0.15 + 0.04 * i + (2.2 + 0.1 * i) * math.exp(-k / (12 + 5 * i)) + 0.02 * math.sin(k + s))
                for k in range(1, 88)
            ),
        )
        for i, n in enumerate(names)
        for s in SEEDS
    )


def _shown(depth: int, names: tuple[str, ...], output: str) -> Shown:
    prompt = "list [3, 1, 4, 1, 5]: " + ", then ".join(
        ["reverse", "rotate left by 1", "swap first and last", "double", "sort", "drop"][:depth]
    )
    return Shown(
        item=f"lists-{depth:02d}-0017",
        benchmark="lists",
        prompt=prompt,
        gold="[5, 1, 4, 1, 3]",
        difficulty=depth,
        difficulty_unit="operations",
        seen=depth < 3,
        outputs=tuple(
            Output(
                condition=n,
                seed=0,
                raw=f"def f(xs):\n    xs = xs[::-1]\n    return xs  # {n}\n" + (output if i == 0 else ""),
                extracted="f",
                status=("fail", "pass", "timeout_cpu", "no_answer")[i % 4],
                score=float(i % 4 == 1),
                metric="accuracy",
                detail="" if i % 4 == 1 else "got [5, 1, 4, 1, 3], expected [1, 4, 1, 3, 5]",
            )
            for i, n in enumerate(names)
        ),
    )


def without(data: ReportData, **parts: object) -> ReportData:
    """Return `data` with some parts replaced."""
    return replace(data, **parts)  # type: ignore[arg-type]
