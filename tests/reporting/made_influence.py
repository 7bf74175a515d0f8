"""Synthetic artifacts of `attribute` with planted truths, on real tokenised texts: what the analysis and report of influence read.

Two sources (math, code) at five difficulties. Planted, in nats: own domain 0.8, other domain 0.2, hard mathematics helps both
(+0.3 and +0.1 a level), easy code helps code (-0.2 a level), checks in thoughts help (+), structure helps code; noise by
example, seed and both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from leaven.analysis.influence import OUTCOMES, WEIGHTS, AttributionRun, Realised, Validation, influence_records, labels_of
from leaven.core.step import Resources, StepContext
from leaven.core.tables import EXAMPLES, INFLUENCE, read_table, write_examples, write_table
from leaven.core.types import Example
from leaven.data.behaviours import with_behaviours
from leaven.data.tokenise import load_tokens, tokenise
from leaven.data.tokenizer import train_tokenizer

QUIET = StepContext(runtime=Resources(threads=1))
TARGETS = {"sums": "math", "programs": "code"}
OWN, OTHER = 0.8, 0.2
SLOPES = {("math", "math"): 0.3, ("math", "code"): 0.1, ("code", "math"): 0.0, ("code", "code"): -0.2}
METHODS = {"ekfac": 1.0, "gradient_dot": 0.6, "length": 0.0, "random": 0.0}
"""Method -> how much of the truth its scores hold."""


@dataclass(frozen=True)
class Made:
    """The artifacts and the truth behind them."""

    root: Path
    seeds: tuple[int, ...]
    labels: pl.DataFrame
    runs: tuple[AttributionRun, ...]
    truth: dict[str, np.ndarray]

    def records(self, **more: Any) -> dict[str, Any]:
        """Return the records of all that was made."""
        given = {"domains": TARGETS, "realised": realised(self), "validation": [validation()], "paper": True, "model": "llama 64 x 3"}
        return influence_records(self.runs, self.labels, **(given | more))


def math_example(n: int, difficulty: int) -> Example:
    a, b = 3 + n % 17, 2 + n % 11
    steps = "".join(f"Then add {k} to {a + k} . \n" for k in range(difficulty))
    thought = f"First we have {a} and {b} . \n{steps}Wait , let me check : {b} + {a} = {a + b} . \nTherefore the answer is {a + b} .\n"
    found = Example(
        id=f"sum-{n:03d}",
        source="sums",
        question=f"What is {a} + {b} ?",
        thought=thought,
        answer=str(a + b),
        domain="math",
        family=("symbolic", "story")[n % 2],
        difficulty=difficulty,
        group=f"sum-{n // 2:03d}",
    )
    return with_behaviours(found, None)


def code_example(n: int, difficulty: int) -> Example:
    body = "".join(f"    x = x + {k}\n" for k in range(difficulty))
    found = Example(
        id=f"prog-{n:03d}",
        source="programs",
        question=f"Add up to {n} .",
        thought="First set x . \nThen return x . \n",
        code=f"def f ( x ) :\n{body}    return x\n",
        domain="code",
        family="functions",
        difficulty=difficulty,
        group=f"prog-{n:03d}",
    )
    return with_behaviours(found, None)


def make(
    root: Path, *, n: int = 60, seeds: Sequence[int] = (0, 1, 2), conditions: Sequence[str] = ("base",), finest: str = "token"
) -> Made:
    """Write the artifacts under `root`."""
    sources = {
        "sums": ("thought_answer", [math_example(i, 1 + i % 5) for i in range(n)]),
        "programs": ("thought_code", [code_example(i, 1 + i % 5) for i in range(2 * n // 3)]),
    }
    for name, (_, examples) in sources.items():
        (root / f"{name}-examples").mkdir(parents=True, exist_ok=True)
        write_examples(root / f"{name}-examples" / "examples.parquet", examples)
    (root / "tokenizer").mkdir(exist_ok=True)
    spec = {"kind": "word", "vocab_size": 900, "formats": {k: [form] for k, (form, _) in sources.items()}}
    train_tokenizer(spec, {k: root / f"{k}-examples" for k in sources}, root / "tokenizer", QUIET)
    tokens = {}
    for name, (form, _) in sources.items():
        tokens[name] = root / f"{name}-tokens"
        tokens[name].mkdir(exist_ok=True)
        inputs = {"examples": root / f"{name}-examples", "tokenizer": root / "tokenizer"}
        tokenise({"source": name, "format": form}, inputs, tokens[name], QUIET)
    frames = [labels_of(read_table(root / f"{k}-examples" / "examples.parquet", EXAMPLES), k) for k in sources]
    labels = pl.concat(frames)
    symbolic = pl.when(pl.col("family") == "symbolic").then(0.9).otherwise(0.1)
    labels = labels.with_columns(pl.when(pl.col("domain") == "math").then(symbolic).alias("symbolic"))
    truth = {t: planted(labels, d) for t, d in TARGETS.items()}
    runs = []
    for number, condition in enumerate(conditions):
        for seed in seeds:
            folder = root / f"{condition}-{seed}"
            folder.mkdir(exist_ok=True)
            table = scored(labels, truth, tokens, root / "tokenizer", seed + 100 * number, finest)
            write_table(folder / "influence.parquet", table, INFLUENCE)
            report = {"n_texts": labels.height, "n_queries": 2, "n_parameters": 49152, "modules": ["mlp.up", "mlp.down"]}
            (folder / "report.json").write_text(json.dumps(report))
            node = f"{condition}/seed-{seed}/influence"
            cell = {"name": "main", "condition": condition, "seed": seed, "node": node}
            runs.append(AttributionRun(**cell, folder=folder, tokens=tokens, tokenizer=root / "tokenizer"))
    return Made(root, tuple(seeds), labels, tuple(runs), truth)


def planted(labels: pl.DataFrame, target: str) -> np.ndarray:
    """Return the planted influence of every example on a target domain, without noise."""
    rows = labels.select("domain", "difficulty").rows()
    return np.array([(OWN if d == target else OTHER) + SLOPES[d, target] * (level - 3) for d, level in rows])


def scored(
    labels: pl.DataFrame, truth: dict[str, np.ndarray], tokens: dict[str, Path], tokenizer: Path, seed: int, finest: str
) -> pl.DataFrame:
    """Return one model's INFLUENCE rows."""
    own, common = np.random.default_rng(1000 + seed), np.random.default_rng(7)
    opened = {k: load_tokens(v) for k, v in tokens.items()}
    columns: dict[str, list[Any]] = {c: [] for c in INFLUENCE}
    domains = labels["domain"].to_numpy()
    shared = {t: centred(common.normal(0, 0.25, labels.height), domains) for t in truth}
    for method, kept in METHODS.items():
        for target, expected in truth.items():
            noise = shared[target] + own.normal(0, 0.2, labels.height) + own.normal(0, 0.1)
            for i, (source, example) in enumerate(labels.select("source", "example").rows()):
                table = opened[source]
                learned = table.learn(example) > 0
                score = kept * (expected[i] + noise[i]) + (1 - kept) * own.normal(0, 0.4)
                score = float(learned.sum()) / 100 if method == "length" else float(score)
                about = ("m", -1, method, target, source, example, "f", 0)
                rows = [(*about, "instance", "", None, None, int(learned.sum()), score)]
                if method == "ekfac" and finest != "instance":
                    rows += finer(about, table, example, learned, score, target, own, finest)
                for row in rows:
                    for column, value in zip(INFLUENCE, row, strict=True):
                        columns[column].append(value)
    return pl.DataFrame(columns, schema=INFLUENCE)


def centred(noise: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return noise with mean zero in every group, so that what is planted is the mean of the texts that are there."""
    means = {g: noise[groups == g].mean() for g in np.unique(groups)}
    return noise - np.array([means[g] for g in groups])


def finer(
    about: tuple[Any, ...], table: Any, example: str, learned: np.ndarray, score: float, target: str, own: np.random.Generator, finest: str
) -> list[tuple[Any, ...]]:
    """Return segment and token rows that sum to the score; checks and, for code, structure get more than their share."""
    segments = table.segments().filter(example=example)
    of = np.repeat(segments["segment"].to_numpy(), (segments["end"] - segments["start"]).to_numpy())
    more = np.zeros(len(of))
    for row in segments.iter_rows(named=True):
        more[row["start"] : row["end"]] += 0.08 if "exploratory" in (row["tags"] or ()) else 0.0
        more[row["start"] : row["end"]] += 0.05 if row["kind"] == "code" and target == "programs" else 0.0
    token = np.where(learned, more + own.normal(0, 0.02, len(of)), 0.0)
    token[learned] += (score - token.sum()) / learned.sum()
    rows = []
    for number in np.unique(of).tolist():
        inside = of == number
        rows.append((*about, "segment", "position", number, None, int(learned[inside].sum()), float(token[inside].sum())))
    if finest == "token":
        rows += [(*about, "token", "position", int(of[t]), t, int(learned[t]), float(token[t])) for t in range(len(of))]
    return rows


def realised(made: Made, factor: float = 1.0) -> Realised:
    """Return interventions on the base condition whose outcome is `factor` times the planted influence, with noise."""
    keys = made.labels.select("source", "example", "domain", "difficulty")
    plans = {
        "base": np.ones(keys.height),
        "no_code": (keys["domain"] != "code").to_numpy().astype(float),
        "no_hard_math": (~((keys["domain"] == "math") & (keys["difficulty"] >= 4))).to_numpy().astype(float),
        "twice_easy_code": 1.0 + ((keys["domain"] == "code") & (keys["difficulty"] <= 2)).to_numpy(),
    }
    weights, outcomes = [], []
    for condition, weight in plans.items():
        for seed in made.seeds:
            own = np.random.default_rng([seed, len(condition)])
            shown = weight > 0
            weights.append(
                keys.select("source", "example")
                .filter(pl.Series(shown))
                .with_columns(condition=pl.lit(condition), level=pl.lit("{}"), seed=pl.lit(seed, pl.Int32), weight=pl.Series(weight[shown]))
                .select(list(WEIGHTS))
            )
            for target, expected in made.truth.items():
                change = factor * float(expected @ (weight - 1))
                items = np.arange(25)
                value = -40 + items + change + own.normal(0, 1.0, len(items))
                rows = {"query": target, "item": [f"{target}-{i}" for i in items], "value": value}
                cell = {"condition": condition, "level": "{}", "seed": seed}
                outcomes.append(pl.DataFrame(cell | rows, schema=OUTCOMES))
    return Realised(weights=pl.concat(weights), outcomes=pl.concat(outcomes))


VALUES = {"ekfac": 0.60, "gradient_dot": 0.48, "length": 0.11, "random": 0.01}


def validation(values: dict[str, float] | None = None, **more: Any) -> Validation:
    """Return records in the form of attribution/agreement.py: by default gradient dot trails EK-FAC."""
    found = VALUES if values is None else values
    records = []
    measures = [("lds", "spearman", 100), ("group", "spearman", 10), ("group", "sign", 10), ("top", "top-10", 4)]
    for kind, statistic, n in measures:
        reference = "random" if kind == "top" else "ekfac"
        for query, averaged in (("all", 1), ("all", 4), *((q, 4) for q in TARGETS if kind != "top")):
            for method, value in found.items():
                shown = value - (0.1 if averaged == 1 else 0.0)
                minus = {"minus_reference": shown - found["ekfac"], "minus_low": shown - 0.64, "minus_high": shown - 0.56}
                ceiling = 0.85 if (kind, query) == ("lds", "all") else None
                records.append(
                    {"kind": kind, "statistic": statistic, "method": method, "query": query, "step": 300, "n_subsets": n, "n_seeds": 5}
                    | {"models_averaged": averaged, "value": shown, "low": shown - 0.05, "high": shown + 0.05}
                    | {"reference": reference, "ceiling": ceiling}
                    | minus
                )
    return replace(Validation(name="main", condition="base", records=records, node="base/retrained"), **more)
