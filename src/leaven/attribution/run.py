"""The attribution step: model + tokenised training texts + tokenised target texts -> influence.parquet.

Two ways. Streamed: factors are fitted and kept (out/_resume, so a stopped run goes on with them), then one more pass
over the training texts scores every pair. Stored: gradients are kept in a folder of their own (store.py) and every
query set is scored from there; only the texts of pairs whose tokens are asked for, or whose rows are lossy, run
again. Not covered: which texts to ask about (queries.py, api/attributing.py), roll-ups (analysis/influence.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from leaven.attribution.estimates import Filling, estimate, measure_rates, plan_filling
from leaven.attribution.factors import Damping, Factors, fit_factors
from leaven.attribution.filling import fill
from leaven.attribution.methods import Scene, Settings, baseline_scores, check_baselines
from leaven.attribution.pairs import Extremes, pairs
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
    refuse_dense,
)
from leaven.attribution.store import Identity, Store, text_keys
from leaven.attribution.strips import strips_page, write_strips
from leaven.attribution.texts import Text, fit_to, load_texts
from leaven.core.hashing import digest, tree_digest
from leaven.core.registry import load_plugins
from leaven.core.step import StepContext, step
from leaven.core.tables import INFLUENCE, TIMINGS, write_table
from leaven.errors import DataError
from leaven.lm.backend import open_backend

MUCH_DRIFT = 2.0
"""Drift (store.py) of added texts from which a new store is advised."""


@step(version=5)
def attribute(spec: Mapping[str, Any], inputs: Mapping[str, Path], out: Path, ctx: StepContext) -> None:
    """Write influence.parquet, factors.safetensors, strips.html (levels below instance), report.json and
    timings.parquet.

    Args:
        spec: modules, fisher, damping ({rule, value}), reduce (sum | mean), queries (aggregate | single), level,
            decompositions (position, loss, leave_out), keep (0 = every pair), baselines (names of methods.BASELINES, or a plugin's), seed;
            optionally refine (settings of Refinement), baseline_settings and dtype (fp32 | bf16).
        inputs: `model`; `tokens:NAME` training texts and `queries:NAME` target texts (tokenise artifacts); optionally
            `checkpoint:STEP` folders and `moments` for baselines along training (trajectory.py).
        out: Receives the files above.
        ctx: Progress, stop and resources.

    Raises:
        DataError: no training or target text is left, or too many pairs for memory.
        BackendError: the model cannot be opened, or has layers that are not supported.
        StudyError: an unknown option.
    """
    attribute_into(spec, inputs, out, ctx)


def attribute_into(
    spec: Mapping[str, Any],
    inputs: Mapping[str, Path],
    out: Path,
    ctx: StepContext,
    *,
    store: Path | None = None,
    budget_bytes: int | None = None,
) -> dict[str, Any]:
    """Do what `attribute` does, with training gradients kept in a folder where one is given; return the report.

    Raises:
        RefusedError: the gradients do not fit the budget or the disk; and what `attribute` raises.
    """
    began, cpu = time.time(), time.process_time()
    load_plugins(inputs)
    check_baselines(spec["baselines"], inputs, Settings.of(spec.get("baseline_settings")))
    backend: Any = open_backend(inputs["model"], ctx.runtime)
    tracked = Tracked(backend.model, spec["modules"], dtype=spec.get("dtype", "fp32"))
    texts, cuts = _texts(inputs, "tokens:", tracked.model.max_tokens)
    queries, query_cuts = _queries(inputs, spec["queries"], tracked.model.max_tokens)
    work = _Job(spec, tracked, texts, queries, tree_digest(Path(inputs["model"]))[:16], out, ctx)
    rates = measure_rates(tracked, texts)
    if store is None:
        expected = estimate(tracked, texts, queries, spec)
        ctx.progress(0, len(texts), expected.sentence(rates))
        factors, found, facts = work.streamed()
    else:
        opened, filling = work.planned(store, budget_bytes)
        expected = estimate(tracked, texts, queries, spec, filling)
        ctx.progress(0, len(texts), f"{filling.sentence()}; {expected.sentence(rates)}")
        factors, found, facts = work.stored(opened, store, filling)
    frames = [influence_table(texts, work.names, found, method=facts["method"], model=work.model, level=spec["level"])]
    if work.finer and "leave_out" in spec["decompositions"]:
        frames.append(counterfactual_table(tracked, texts, work.targets, found, method=facts["method"], model=work.model))
    if facts["refined"]:  # what was refined stays in the table, so that both can be compared with retraining
        plain = ekfac_targets(work.names, work.gradients, factors, work.damping)
        unrefined = pairs(tracked, texts, plain, decompositions=(), keep=work.keep, ctx=ctx)
        frames.append(influence_table(texts, work.names, unrefined, method="ekfac", model=work.model))
    for name, scores in _baselines(work, inputs).items():
        best = _extremes(scores, int(spec["keep"]))
        frames.append(influence_table(texts, work.names, best, method=name, model=work.model))
    write_table(out / "influence.parquet", pl.concat(frames), INFLUENCE)
    factors.save(out / "factors.safetensors")
    if work.splits:
        write_strips(out / "strips.html", strips_page(texts, work.names, found, backend.tokenizer, work.splits[0]))
    report = {
        "n_texts": len(texts),
        "n_queries": len(queries),
        "n_parameters": expected.n_parameters,
        "modules": tracked.names(),
        "damping": factors.damping(work.damping),
        "training": cuts,
        "targets": query_cuts,
        "sign": "nats of the target per removed training text; positive = the text helps",
    } | facts
    (out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    row = {"name": "attribute", "wall_s": time.time() - began, "cpu_s": time.process_time() - cpu, "detail": ""}
    write_table(out / "timings.parquet", [row], TIMINGS)
    return report


class _Job:
    """One attribution: what is asked for, and the two ways to the scored pairs."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        tracked: Tracked,
        texts: Sequence[Text],
        queries: Sequence[Query],
        model: str,
        out: Path,
        ctx: StepContext,
    ) -> None:
        self.spec, self.tracked, self.texts, self.queries, self.model = spec, tracked, texts, queries, model
        self.out, self.ctx = out, ctx
        self.names = [q.name for q in queries]
        self.damping = Damping(spec["damping"]["rule"], float(spec["damping"]["value"]))
        self.finer = spec["level"] != "instance"
        self.splits = tuple(d for d in spec["decompositions"] if self.finer and d != "leave_out")
        self.keep = int(spec["keep"])
        self.targets = Targets((), {})
        self._gradients: Vectors | None = None

    @property
    def gradients(self) -> Vectors:
        """Return the plain gradients of the queries."""
        if self._gradients is None:
            self._gradients = query_gradients(self.tracked, self.queries, self.spec["reduce"])
        return self._gradients

    def streamed(self) -> tuple[Factors, list[Pair], dict[str, Any]]:
        """Fit factors and score in one more pass over the training texts."""
        factors = _factors(self.tracked, self.texts, self.spec, self.model, self.out, self.ctx)
        method, refined = self._solve(factors)
        found = self._pairs(self.texts)
        return factors, found, {"method": method, "refined": refined}

    def planned(self, folder: Path, budget_bytes: int | None) -> tuple[Store | None, Filling]:
        """Open a store that is there, and plan how it is filled."""
        opened = Store.open(folder, self.tracked.device) if Store.lies_in(folder) else None
        if opened is not None:
            opened.refuse_other(self._identity())
        fisher = self.spec["fisher"]
        return opened, plan_filling(folder, opened, self.tracked, self.texts, fisher=fisher, budget_bytes=budget_bytes)

    def stored(self, opened: Store | None, folder: Path, filling: Filling) -> tuple[Factors, list[Pair], dict[str, Any]]:
        """Fill the store with what it lacks, and score from it; tokens of the strongest pairs run their texts again."""
        store = opened or Store.create(folder, self._identity(), filling.coding, filling.check_every)
        new = fill(store, self.tracked, self.texts, keep_batches=filling.keep_batches, ctx=self.ctx)
        factors = store.factors()
        method, refined = "ekfac", None
        if self.spec.get("refine"):
            method, refined = self._solve(factors)
            weighted = {n: b.rotate(self.targets.vectors[n]) for n, b in factors.blocks.items()}
        else:
            turned = query_gradients(self.tracked, self.queries, self.spec["reduce"], bases=store.bases)
            weighted = factors.weigh(turned, factors.damping(self.damping))
            weighted = {n: v.div_(factors.n_texts) for n, v in weighted.items()}
        facts = {
            "folder": str(folder),
            "coding": store.coding.sentence(),
            "texts": len(store.texts),
            "new_texts": new,
            "drift": store.facts.get("drift"),
            "ranking": (ranking := store.loss_of_ranking(weighted)) and dataclasses.asdict(ranking),
        }
        self.ctx.progress(0, 0, ranking.sentence() if ranking else "ranking kept: rows hold the gradients as computed")
        if new and (facts["drift"] or 0) > MUCH_DRIFT:
            self.ctx.progress(
                0,
                0,
                f"the new texts fit the store's eigenvectors {facts['drift']:.2g} times less well than those they were fitted on; "
                "a new store would fit them again",
            )
        lossy = store.coding.share < 1
        again = self.finer or (lossy and self.keep)
        spare = (3 * self.keep if lossy else self.keep // 4 + 4) if again and self.keep else 0
        if self.finer and not self.keep:
            found, chosen = [], list(range(len(self.texts)))
        else:
            found = self._from_rows(store, weighted, self.keep + spare if self.keep else 0)
            chosen = sorted({p.text for p in found})
        if again:  # exact scores, and finer levels, of the texts that matter
            if not self.targets.names:
                self.targets = Targets(tuple(self.names), {n: b.unrotate(weighted[n]) for n, b in factors.blocks.items()})
            found = [dataclasses.replace(p, text=chosen[p.text]) for p in self._pairs([self.texts[n] for n in chosen])]
        return factors, found, {"method": method, "refined": refined, "store": facts}

    def _from_rows(self, store: Store, weighted: Vectors, keep: int) -> list[Pair]:
        """Score every text from its row."""
        if not keep:
            refuse_dense(len(self.names), len(self.texts))
        number = {key: n for n, key in enumerate(text_keys(self.texts))}
        kept = [Extremes(keep) for _ in self.names]
        for first, scores in store.score(weighted):
            self.ctx.check_stop()
            of = [number.get(key, -1) for key in store.texts[first : first + scores.shape[1]]]
            for query, extremes in enumerate(kept):
                for text, score in zip(of, scores[query].tolist(), strict=True):
                    if text >= 0 and extremes.admits(score):
                        extremes.add(Pair(query, text, score))
        return [pair for extremes in kept for pair in extremes.sorted()]

    def _pairs(self, texts: Sequence[Text]) -> list[Pair]:
        return pairs(self.tracked, texts, self.targets, decompositions=self.splits, keep=self.keep, ctx=self.ctx)

    def _solve(self, factors: Factors) -> tuple[str, dict[str, Any] | None]:
        """Set the preconditioned queries; return the method's name and what refining did (None without it)."""
        if not self.spec.get("refine"):
            self.targets = ekfac_targets(self.names, self.gradients, factors, self.damping)
            return "ekfac", None
        how = Refinement(**self.spec["refine"])
        added, resume = factors.damping(self.damping), self.out / "_resume"
        found = refine(self.tracked, self.texts, self.gradients, factors, added, how, resume=resume, ctx=self.ctx)
        vectors = {n: v / factors.n_texts for n, v in found.vectors.items()}
        self.targets = Targets(tuple(self.names), vectors)
        facts = {"passes": found.passes, "residual": found.residual.tolist(), "kept": found.kept.tolist()}
        return f"ekfac+{how.solver}", facts

    def _identity(self) -> Identity:
        spec = self.spec
        return Identity(self.model, spec["modules"], self.tracked.dtype, spec["fisher"], int(spec["seed"]))


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
    key = digest([model, spec["modules"], tracked.dtype, spec["fisher"], int(spec["seed"]), state.hexdigest()])[:16]
    saved = out / "_resume" / f"factors-{key}.safetensors"
    if saved.is_file():
        return Factors.load(saved, tracked.device)
    factors = fit_factors(tracked, texts, fisher=spec["fisher"], seed=int(spec["seed"]), ctx=ctx)
    saved.parent.mkdir(parents=True, exist_ok=True)
    part = saved.with_suffix(".part")
    factors.save(part)
    os.replace(part, saved)
    return factors


def _baselines(work: _Job, inputs: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """Return the baselines that were asked for, [Q,N] each."""
    spec = work.spec
    scene = Scene.of_inputs(
        work.tracked,
        work.texts,
        work.queries,
        inputs,
        gradients=lambda: work.gradients,
        settings=Settings.of(spec.get("baseline_settings")),
        seed=int(spec["seed"]),
        ctx=work.ctx,
    )
    return baseline_scores(list(spec["baselines"]), scene)


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
