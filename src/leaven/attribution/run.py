"""The attribution step: model + tokenised training texts + tokenised target texts -> influence.parquet.

Factors are fitted first and kept (out/factors.safetensors), so a stopped run goes on with them and another query set
on the same data can start from them. One pass over the training texts then scores every pair. Not covered: which
texts to ask about (queries.py, api/attributing.py), roll-ups (levels.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from leaven.attribution.baselines import GRADIENT, gradient_scores, plain_scores
from leaven.attribution.factors import Damping, Factors, fit_factors
from leaven.attribution.passes import Tracked, Vectors
from leaven.attribution.queries import Query, query_gradients, single_queries
from leaven.attribution.refine import Refinement, refine
from leaven.attribution.scores import (
    Pair,
    Targets,
    counterfactual_table,
    dense_pairs,
    ekfac_targets,
    influence_table,
    pairs,
)
from leaven.attribution.strips import strips_page, write_strips
from leaven.attribution.texts import BATCH_TOKENS, Text, fit_to, load_texts, make_batches
from leaven.core.hashing import digest, tree_digest
from leaven.core.step import StepContext, step
from leaven.core.tables import INFLUENCE, TIMINGS, write_table
from leaven.errors import DataError
from leaven.lm.backend import open_backend


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an attribution will take: gradient passes over tokens, and bytes; seconds follow once a rate is known."""

    n_texts: int
    n_tokens: int
    n_parameters: int
    passes: float
    memory_bytes: int
    disk_bytes: int

    def sentence(self, seconds_per_token: float) -> str:
        """Return the estimate in words, given the measured cost of a gradient pass."""
        return (
            f"about {self.passes * self.n_tokens * seconds_per_token:.3g} s: {self.passes:.3g} passes over "
            f"{self.n_texts} texts "
            f"({self.n_tokens} tokens); {self.n_parameters} parameters, about {self.memory_bytes / 1e6:.3g} MB "
            "of memory "
            f"beside the model, {self.disk_bytes / 1e6:.3g} MB on disk"
        )


@step(version=1)
def attribute(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Write influence.parquet, factors.safetensors, strips.html (levels below instance), report.json and
    timings.parquet.

    Args:
        spec: modules, fisher, damping ({rule, value}), reduce (sum | mean), queries (aggregate | single), level,
            decompositions (position, loss, leave_out), keep (0 = every pair), baselines (names), seed; optionally
            refine (settings of Refinement).
        inputs: `model`; `tokens:NAME` training texts and `queries:NAME` target texts (tokenise artifacts).
        out: Receives the files above.
        ctx: Progress, stop and resources.

    Raises:
        DataError: no training or target text is left, or too many pairs for memory.
        BackendError: the model cannot be opened, or has layers that are not supported.
        StudyError: an unknown option.
    """
    began, cpu = time.time(), time.process_time()
    backend: Any = open_backend(inputs["model"], ctx.runtime)
    tracked = Tracked(backend.model, spec["modules"])
    texts, cuts = _texts(inputs, "tokens:", tracked.model.max_tokens)
    queries, query_cuts = _queries(inputs, spec["queries"], tracked.model.max_tokens)
    model = tree_digest(Path(inputs["model"]))[:16]
    damping = Damping(spec["damping"]["rule"], float(spec["damping"]["value"]))
    expected = estimate(tracked, texts, queries, spec)
    ctx.progress(0, len(texts), expected.sentence(_seconds_per_token(tracked, texts)))
    factors = _factors(tracked, texts, spec, model, out, ctx)
    gradients = query_gradients(tracked, queries, spec["reduce"])
    names = [q.name for q in queries]
    method, targets, refined = _targets(spec, tracked, texts, names, gradients, factors, damping, ctx)
    finer = spec["level"] != "instance"
    splits = tuple(d for d in spec["decompositions"] if finer and d != "leave_out")
    found = pairs(
        tracked,
        texts,
        targets,
        decompositions=splits,
        keep=int(spec["keep"]),
        ctx=ctx,
    )
    frames = [influence_table(texts, names, found, method=method, model=model, level=spec["level"])]
    if finer and "leave_out" in spec["decompositions"]:
        frames.append(counterfactual_table(tracked, texts, targets, found, method=method, model=model))
    for name, scores in _baselines(spec, tracked, texts, queries, gradients, ctx).items():
        best = _extremes(scores, int(spec["keep"]))
        frames.append(influence_table(texts, names, best, method=name, model=model))
    write_table(out / "influence.parquet", pl.concat(frames), INFLUENCE)
    factors.save(out / "factors.safetensors")
    if splits:
        write_strips(out / "strips.html", strips_page(texts, names, found, backend.tokenizer, splits[0]))
    report = {
        "n_texts": len(texts),
        "n_queries": len(queries),
        "n_parameters": expected.n_parameters,
        "modules": tracked.names(),
        "method": method,
        "refined": refined,
        "damping": factors.damping(damping),
        "training": cuts,
        "targets": query_cuts,
        "sign": "nats of the target per removed training text; positive = the text helps",
    }
    (out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    row = {"name": "attribute", "wall_s": time.time() - began, "cpu_s": time.process_time() - cpu, "detail": ""}
    write_table(out / "timings.parquet", [row], TIMINGS)


def estimate(tracked: Tracked, texts: Sequence[Text], queries: Sequence[Query], spec: Mapping[str, Any]) -> Estimate:
    """Return what `attribute` will take: two passes for factors, one for scores, one forward pass per query for
    "loss"."""
    shapes = [tracked.shape(n) for n in tracked.names()]
    n_parameters, tokens = sum(o * i for o, i in shapes), sum(len(t.ids) for t in texts)
    factor_numbers = sum(o * o + i * i + o * i for o, i in shapes)
    split = spec["level"] != "instance"
    more = 2 / 3 * len(queries) if split and "loss" in spec["decompositions"] else 0.0
    if split and "leave_out" in spec["decompositions"]:  # one more pass over what is left for every segment of a text
        segments = sum(1 if t.segment is None else len(np.unique(t.segment)) for t in texts) / max(1, len(texts))
        more += 1 + segments
    refining = dict(spec.get("refine") or {})
    if refining:  # each product is a forward-mode, a forward and a backward pass per query, about two gradient passes
        how = Refinement(**refining)
        share = how.passes if how.solver == "krylov" else how.steps * how.batch_texts / max(1, len(texts))
        more += 2 * len(queries) * share
    baselines = 1 if set(spec["baselines"]) & set(GRADIENT) else 0
    held = 2 * factor_numbers + 2 * len(queries) * n_parameters + BATCH_TOKENS * sum(o + i for o, i in shapes)
    n_pairs = len(queries) * (min(len(texts), 2 * int(spec["keep"])) if spec["keep"] else len(texts))
    mean_tokens = tokens / max(1, len(texts))
    rows = n_pairs * (1 + (mean_tokens * len(spec["decompositions"]) if spec["level"] == "token" else 0))
    return Estimate(
        len(texts), tokens, n_parameters, 3 + more + baselines, 4 * held, int(4 * factor_numbers + 16 * rows)
    )


def _seconds_per_token(tracked: Tracked, texts: Sequence[Text]) -> float:
    """Return the wall time of one gradient pass per token, from a second run of one small batch."""
    sample = list(texts[:8])
    for _ in range(2):
        began = time.time()
        for batch in make_batches(sample, tracked.model.max_tokens, device=tracked.device):
            tracked.backward(batch)
    return (time.time() - began) / sum(len(t.ids) for t in sample)


def _targets(
    spec: Mapping[str, Any],
    tracked: Tracked,
    texts: Sequence[Text],
    names: Sequence[str],
    gradients: Vectors,
    factors: Factors,
    damping: Damping,
    ctx: StepContext,
) -> tuple[str, Targets, dict[str, Any] | None]:
    """Return the method's name, the preconditioned queries and what refining did (None without it)."""
    if not spec.get("refine"):
        return "ekfac", ekfac_targets(names, gradients, factors, damping), None
    how = Refinement(**spec["refine"])
    found = refine(tracked, texts, gradients, factors, factors.damping(damping), how, ctx=ctx)
    facts = {"passes": found.passes, "residual": found.residual.tolist(), "kept": found.kept.tolist()}
    vectors = {n: v / factors.n_texts for n, v in found.vectors.items()}
    return f"ekfac+{how.solver}", Targets(tuple(names), vectors), facts


def _texts(inputs: Mapping[str, Path], prefix: str, max_tokens: int) -> tuple[list[Text], dict[str, int]]:
    """Return the texts of all inputs with this prefix, cut to the context, and what happened to them."""
    loaded = [t for name, folder in sorted(inputs.items()) if name.startswith(prefix) for t in load_texts(folder)]
    kept, cut, dropped = fit_to(loaded, max_tokens)
    if not kept:
        raise DataError(
            f"attribution: expected texts with loss among inputs {prefix}*, found {len(loaded)} texts of which none "
            f"keeps a learned token within {max_tokens} tokens"
        )
    return kept, {"n_texts": len(loaded), "n_cut": cut, "n_dropped": dropped}


def _queries(inputs: Mapping[str, Path], how: str, max_tokens: int) -> tuple[list[Query], dict[str, int]]:
    """Return one query per input (aggregate) or per text (single)."""
    queries, counts = [], {"n_texts": 0, "n_cut": 0, "n_dropped": 0}
    for name in sorted(n for n in inputs if n.startswith("queries:")):
        texts, found = _texts({name: inputs[name]}, "queries:", max_tokens)
        counts = {k: v + found[k] for k, v in counts.items()}
        queries += single_queries(texts) if how == "single" else [Query(name.partition(":")[2], tuple(texts))]
    if not queries:
        raise DataError("attribution: expected an input queries:NAME with target texts, found none")
    return queries, counts


def _factors(
    tracked: Tracked, texts: Sequence[Text], spec: Mapping[str, Any], model: str, out: Path, ctx: StepContext
) -> Factors:
    """Return factors, from an earlier start of the same work where there is one."""
    state = hashlib.sha256()
    for text in texts:
        state.update(f"{text.source}\x1f{text.example}".encode())
        state.update(np.ascontiguousarray(text.ids).tobytes() + text.token_weights().tobytes())
    key = digest([model, spec["modules"], spec["fisher"], int(spec["seed"]), state.hexdigest()])[:16]
    saved = out / "_resume" / f"factors-{key}.safetensors"
    if saved.is_file():
        return Factors.load(saved, tracked.device)
    factors = fit_factors(tracked, texts, fisher=spec["fisher"], seed=int(spec["seed"]), ctx=ctx)
    saved.parent.mkdir(parents=True, exist_ok=True)
    part = saved.with_suffix(".part")
    factors.save(part)
    os.replace(part, saved)
    return factors


def _baselines(
    spec: Mapping[str, Any],
    tracked: Tracked,
    texts: Sequence[Text],
    queries: Sequence[Query],
    gradients: Vectors,
    ctx: StepContext,
) -> dict[str, np.ndarray]:
    """Return the baselines that were asked for, [Q,N] each."""
    wanted = list(spec["baselines"])
    found = gradient_scores(tracked, texts, gradients, ctx=ctx) if set(wanted) & set(GRADIENT) else {}
    seed = int(spec["seed"])
    return {n: found[n] if n in found else plain_scores(n, tracked, texts, queries, seed) for n in wanted}


def _extremes(scores_QN: np.ndarray, keep: int) -> list[Pair]:
    """Return each query's `keep` highest and lowest pairs from the highest down (all for 0)."""
    found = dense_pairs(scores_QN)
    if not keep:
        return found
    result = []
    for q, row in enumerate(scores_QN):
        order = np.argsort(-row, kind="stable")
        chosen = order if len(order) <= 2 * keep else np.concatenate([order[:keep], order[-keep:]])
        result += [Pair(q, int(n), float(row[n])) for n in chosen]
    return result
