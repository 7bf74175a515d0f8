"""How well influence predicts retraining: linear datamodelling score, groups left out, top removed; every method.

    python benchmarks/truth.py                      held-out corpora; writes benchmarks/results/truth.json
    python benchmarks/truth.py --corpora successor  the tuning corpus alone; prints, writes nothing
    python benchmarks/truth.py --minutes 7          stops by then (exit 130); the same command goes on where it stopped

Small models of the embedded kind (2 layers, 2,900 parameters) are trained on 192 short texts; 100 random halves x 5 seeds
are trained again, all copies as one batch, and every method's summed scores are compared with what the copies
reached on 48 other texts (Park et al. 2023). Early-stopped and converged models are two points of the same runs.
Scores are averaged over up to 20 models trained on everything; the first 5 have the seeds of the retrainings, the others
their own, and every method has the same models. Settings of methods and the number of models were fixed on the
corpus `successor`; the others (truth_corpora.py) come from other generators with other seeds and are run once.
`planted` holds groups that must help, must hurt, and noise. Pieces are kept in runs/truth of the repository, so that
a stopped benchmark goes on; retrainings stay as long as the corpus and the training stay, scores as long as the code
that makes them. Corpora in the results stay when others are run. Intervals resample subsets and queries, not seeds or
corpora. Not covered: real text, larger models, other optimisers than AdamW.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from truth_corpora import CORPORA, LONGEST, VOCAB, Corpus

from leaven.attribution import exact
from leaven.attribution.agreement import Validation, agreements, planted_auc, removal_drops
from leaven.attribution.copies import Copies, NumberedOrder, train_copies
from leaven.attribution.factors import Damping, fit_factors
from leaven.attribution.methods import BASELINES, Scene, Settings, baseline_scores
from leaven.attribution.passes import Tracked
from leaven.attribution.queries import Query, query_gradients
from leaven.attribution.refine import Refinement, refine
from leaven.attribution.retrain import Work, run_copies
from leaven.attribution.scores import Targets, text_scores
from leaven.attribution.subsets import Copy, plan_copies, weights_of
from leaven.attribution.texts import Text
from leaven.attribution.trajectory import Checkpoint, Moments, by_layer
from leaven.attribution.validate import predicted_values
from leaven.core.rng import rng
from leaven.core.step import Resources, StepContext
from leaven.core.tables import ORDER
from leaven.errors import Interrupted
from leaven.lm.batches import TrainingOrder
from leaven.lm.loop import kept_steps
from leaven.lm.optimise import learning_rate
from leaven.lm.process import prepare_process
from leaven.lm.tiny import TinyTrainable
from leaven.lm.tiny_model import TinyConfig, TinyModel, init_tiny

RESULTS = Path(__file__).parent / "results" / "truth.json"
KEPT = Path(__file__).parent.parent / "runs" / "truth"
CONFIG = TinyConfig(vocab=VOCAB, width=12, layers=2, heads=2, kv_heads=2, ffn=16, max_tokens=LONGEST)
TRAIN = {"lr": 5e-3, "schedule": "constant", "warmup_steps": 10, "clip": 1.0, "weight_decay": 0.0, "dtype": "fp32"}
STEPS, BATCH, POINTS = 300, 16, 6
EARLY = 2
"""Which of the six points is the early-stopped model."""


# ---- methods: fixed on `successor` ----

MODULES = "linear+head"
DAMPING = {"ekfac": 0.1, "ekfac_1": 1.0}
REFINED = {
    "refined": Refinement("krylov", passes=4),
    "refined_stochastic": Refinement("stochastic"),
}
REFINED_DAMPING = 1.0
EXACT = {"exact_ggn": 1.0, "exact_ggn_0.1": 0.1}
"""Dense matrices, of converged models alone."""
TOP = ("ekfac", "refined", "gradient_dot", "tracin_adam", "bm25", "loss")
"""Methods whose top is removed and trained again without."""
NOT_SCORING = {"agreement", "copies", "retrain", "subsets", "validate"}
"""Modules of attribution without a part in scores."""
IN_NATS = ("ekfac", *REFINED)
"""Methods whose scores are changes of the target in nats."""


def plain_scores(tracked: Tracked, texts: Sequence[Text], queries: Sequence[Query], path: Sequence[Checkpoint]) -> dict[str, np.ndarray]:
    """Return the scores of EK-FAC and the baselines, [Q,N] each."""
    gradients = query_gradients(tracked, queries)
    factors = fit_factors(tracked, texts)
    found = {}
    for name, value in DAMPING.items():
        found[name] = scores_of(tracked, texts, queries, factors.precondition(gradients, factors.damping(Damping("relative", value))))
    settings = Settings(betas=(0.9, 0.95), less_dims=1024, projected_dims=1024)
    scene = Scene(tracked, texts, queries, gradients=lambda: gradients, checkpoints=lambda: path, settings=settings)
    return found | baseline_scores(list(BASELINES), scene)


def dense_scores(tracked: Tracked, texts: Sequence[Text], queries: Sequence[Query]) -> dict[str, np.ndarray]:
    """Return the scores of the whole damped matrices, [Q,N] each."""
    matrix, of_texts = exact.curvature(tracked, texts), exact.gradients(tracked, texts)
    asked = exact.flatten(tracked, query_gradients(tracked, queries))
    damped = {name: exact.mean_diagonal_damping(tracked, matrix, value) for name, value in EXACT.items()}
    return {name: exact.exact_scores(tracked, matrix, added, asked, of_texts).numpy() for name, added in damped.items()}


def refined_scores(tracked: Tracked, texts: Sequence[Text], queries: Sequence[Query], how: Refinement) -> np.ndarray:
    """Return the scores of a form of refinement, [Q,N]."""
    gradients, factors = query_gradients(tracked, queries), fit_factors(tracked, texts)
    damping = factors.damping(Damping("relative", REFINED_DAMPING))
    return scores_of(tracked, texts, queries, refine(tracked, texts, gradients, factors, damping, how).vectors)


def scores_of(tracked: Tracked, texts: Sequence[Text], queries: Sequence[Query], solved: Mapping[str, torch.Tensor]) -> np.ndarray:
    """Return the influence of every text through solved query gradients, [Q,N] in nats."""
    targets = Targets(tuple(q.name for q in queries), {n: v / len(texts) for n, v in solved.items()})
    return text_scores(tracked, texts, targets)


@cache
def source_digests() -> dict[str, str]:
    """Return short digests of the code of scores, with the solver of refinement and without it, so that scores of other
    code are not taken for this code's."""
    every = {n for n in sys.modules if n.startswith("leaven.attribution.") and n.rpartition(".")[2] not in NOT_SCORING}
    sources = {n: Path(str(sys.modules[n].__file__)).read_text(encoding="utf-8") for n in sorted(every)}
    return {"refined": digest(sources), "plain": digest({n: t for n, t in sources.items() if not n.endswith(".refine")})}


def digest(told: object) -> str:
    """Return a short digest of what JSON can hold."""
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:10]


# ---- training ----


def order_of(texts: Sequence[Text], seed: int) -> TrainingOrder:
    """Return STEPS x BATCH slots: reshuffled epochs of the seed."""
    stream, slots = rng(seed, "truth-order"), []
    while len(slots) < STEPS * BATCH:
        slots += stream.permutation(len(texts)).tolist()
    chosen = np.array(slots[: STEPS * BATCH])
    sizes = np.array([len(t.ids) for t in texts])
    start = np.cumsum(sizes) - sizes
    number = np.arange(STEPS * BATCH)
    rows = pl.DataFrame(
        {
            "stage": ["sft"] * len(chosen), "step": number // BATCH, "slot": number % BATCH, "source": ["made"] * len(chosen),
            "example": [texts[n].example for n in chosen], "format": ["plain"] * len(chosen), "weight": np.ones(len(chosen)),
            "start_token": np.zeros(len(chosen), int), "n_tokens": sizes[chosen], "n_learned_tokens": sizes[chosen] - 1,
            "pack": number % BATCH,
        }
    ).cast(ORDER)  # fmt: skip
    flat = np.concatenate([t.ids for t in texts])
    return TrainingOrder(rows, start[chosen], flat, np.ones(len(flat), np.float32), 0)


def open_tracked(weights: Mapping[str, torch.Tensor]) -> Tracked:
    """Return a model with these weights, its linear layers and head tracked."""
    module = TinyModel(CONFIG)
    module.load_state_dict(weights)
    return Tracked(TinyTrainable(module, None), MODULES)  # type: ignore[arg-type]


def train_whole(texts: Sequence[Text], queries: Sequence[Query], seed: int) -> dict[int, dict[str, Any]]:
    """Train on everything; return weights, moments and losses at every point."""
    order, points = order_of(texts, seed), kept_steps(STEPS, {"checkpoints": POINTS})
    copies = Copies(init_tiny(CONFIG, seed), 1, TRAIN)
    found: dict[int, dict[str, Any]] = {}

    def after(done: int, _: np.ndarray) -> None:
        if done in points:
            first, second = copies.moments(0)
            found[done] = {"weights": copies.weights(0), "first": first, "second": second}

    numbered = NumberedOrder.of(order, {("made", t.example): n for n, t in enumerate(texts)})
    train_copies(copies, order, numbered, np.ones((1, len(texts))), after=after)
    return found


def path_of(models: Mapping[int, Mapping[str, Any]], until: int) -> list[Checkpoint]:
    """Return the checkpoints of training up to a point, with the mean learning rate of the steps before each."""
    result, before = [], 0
    for done in sorted(d for d in models if d <= until):
        rate = float(np.mean([learning_rate(TRAIN, i, STEPS) for i in range(before, done)]))
        result.append(Checkpoint(done, rate, lambda m=models[done]: open_tracked(m["weights"]), lambda t, d=done: moments(t, models[d], d)))
        before = done
    return result


def moments(tracked: Tracked, model: Mapping[str, Any], done: int) -> Moments:
    """Return Adam's moments of the tracked layers."""
    return Moments(by_layer(tracked, model["first"]), by_layer(tracked, model["second"]), done)


# ---- pieces of work, each kept ----


@dataclass(frozen=True)
class Setting:
    """How much of everything: `seeds` retrained, `models` scored, scores averaged over each of `averaged`."""

    seeds: int = 5
    models: int = 20
    averaged: tuple[int, ...] = (1, 2, 5, 10, 20)
    subsets: int = 100
    train: int = 192
    queries: int = 48
    counts: tuple[int, ...] = (12, 24)
    controls: int = 8
    draws: int = 500


class Bench:
    """One corpus: trains, scores, retrains and judges, keeping every piece under `kept`."""

    def __init__(self, corpus: Corpus, setting: Setting, kept: Path, ctx: StepContext) -> None:
        self.corpus, self.setting, self.ctx = corpus, setting, ctx
        self.texts, self.queries, self.labels = corpus.make(setting.train, setting.queries)
        ids = [t.ids.tolist() for t in (*self.texts, *(t for q in self.queries for t in q.texts))]
        told = [corpus.name, corpus.seed, repr(CONFIG), TRAIN, STEPS, BATCH, POINTS, setting.subsets, ids]
        self.truths = kept / f"{corpus.name}-{digest(told)}"
        code = source_digests()
        told_of = {"plain": [MODULES, DAMPING, code["plain"]], "exact": [MODULES, EXACT, code["plain"]]}
        told_of |= {name: [MODULES, repr(how), REFINED_DAMPING, code["refined"]] for name, how in REFINED.items()}
        told_of["top"] = [told_of["plain"], told_of["refined"], TOP, repr(setting)]
        self.scored = {name: self.truths / f"{name}-{digest(told)}" for name, told in told_of.items()}
        self.cpu_s: dict[Path, float] = {}
        self.effects: dict[str, dict[str, dict[str, float]]] = {}
        self.keys = sorted(("made", t.example) for t in self.texts)
        points = sorted(kept_steps(STEPS, {"checkpoints": POINTS}))
        self.points = {"early": points[EARLY - 1], "converged": points[-1]}
        self.all_points = points

    def piece(self, path: Path, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return a kept piece, or make and keep it with the CPU-seconds it took."""
        if not path.is_file():
            self.ctx.check_stop()
            print(f"{self.corpus.name}: {path.stem}", flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            began = time.process_time()
            found = dict(make())
            part = path.with_name(f"_{path.name}")
            np.savez(part, **found, cpu_s=np.array(time.process_time() - began))
            part.replace(path)
        with np.load(path) as archive:
            found = {k: archive[k] for k in archive.files}
        self.cpu_s[path] = float(found.pop("cpu_s"))
        return found

    def models(self, seed: int) -> dict[int, dict[str, Any]]:
        """Return the models of a seed trained on everything, by step."""
        flat: dict[str, np.ndarray] = {}

        def make() -> Mapping[str, np.ndarray]:
            for done, model in train_whole(self.texts, self.queries, seed).items():
                flat.update({f"{done}|{part}|{n}": v.numpy() for part, named in model.items() for n, v in named.items()})
            return flat

        result: dict[int, dict[str, Any]] = {d: {"weights": {}, "first": {}, "second": {}} for d in self.all_points}
        for key, value in self.piece(self.truths / f"model-{seed}.npz", make).items():
            done, part, name = key.split("|")
            result[int(done)][part][name] = torch.from_numpy(value)
        return result

    def scores(self, seed: int, point: str) -> dict[str, np.ndarray]:
        """Return the scores of every method on one model, [Q,N]."""
        models, done = self.models(seed), self.points[point]
        asked = open_tracked(models[done]["weights"]), self.texts, self.queries
        makers: dict[str, Callable[[], Mapping[str, np.ndarray]]] = {"plain": lambda: plain_scores(*asked, path_of(models, done))}
        for name, how in REFINED.items():
            makers[name] = lambda name=name, how=how: {name: refined_scores(*asked, how)}  # type: ignore[misc]
        if EXACT and point == "converged" and not self.corpus.planted:
            makers["exact"] = lambda: dense_scores(*asked)
        found: dict[str, np.ndarray] = {}
        for name, make in makers.items():
            found |= self.piece(self.scored[name] / f"{name}-{point}-{seed}.npz", make)
        return found

    def all_scores(self, point: str) -> dict[str, np.ndarray]:
        """Return the scores of every method, [M,Q,N]."""
        found = [self.scores(s, point) for s in range(self.setting.models)]
        return {m: np.stack([f[m] for f in found]) for m in found[0]}

    def retrained(self, folder: Path, name: str, copies: Sequence[Copy], seed: int) -> np.ndarray:
        """Return the values of every query for every copy and point, float64[C,S,Q]."""
        queries = [Query(q.name, tuple(replace(t, weight=1 / len(q.texts)) for t in q.texts)) for q in self.queries]
        work = Work(
            model=init_tiny(CONFIG, seed), train=TRAIN, order=order_of(self.texts, seed), keys=self.keys, copies=copies,
            queries=queries, points=self.all_points, seed=seed,
        )  # fmt: skip
        kept = folder / f"resume-{name}-{seed}"
        return self.piece(folder / f"{name}-{seed}.npz", lambda: {"values": run_copies(work, kept, self.ctx)[0]})["values"]

    def values(self, folder: Path, name: str, copies: Sequence[Copy]) -> dict[str, np.ndarray]:
        """Return the values at both points, {point: [C,seeds,Q]}."""
        found = np.stack([self.retrained(folder, name, copies, s) for s in range(self.setting.seeds)])
        return {p: found[:, :, self.all_points.index(done)].transpose(1, 0, 2) for p, done in self.points.items()}

    # -- judging --

    def run(self) -> list[Validation]:
        """Return the records of this corpus."""
        return list(self._planted() if self.corpus.planted else self._subsets())

    def _subsets(self) -> Iterator[Validation]:
        spec = {"kind": "half", "n": self.setting.subsets, "fraction": 0.5, "seed": self.corpus.seed}
        copies = plan_copies(spec, self.keys, {})
        values = self.values(self.truths, "half", copies)
        kept = weights_of(copies, len(self.texts))[1:]
        for point, realised in values.items():
            predicted = {m: predicted_values(s, kept) for m, s in self.all_scores(point).items()}
            shared = {"step": self.points[point], "draws": self.setting.draws, "averaged": self.setting.averaged}
            yield from agreements("lds", "spearman", predicted, realised[1:], [q.name for q in self.queries], **shared)

    def _planted(self) -> Iterator[Validation]:
        size = self.setting.train // 16
        groups = [Copy(f"group-{g}", tuple(range(g * size, (g + 1) * size))) for g in range(16)]
        names, step = [q.name for q in self.queries], self.points["converged"]
        scores = self.all_scores("converged")
        values = self.values(self.truths, "groups", [Copy("", ()), *groups])["converged"]
        drops = values[:1] - values[1:]
        gone = 1 - weights_of(groups, len(self.texts))
        predicted = {m: predicted_values(s, gone) for m, s in scores.items()}
        top = self._top(scores)
        of_top = self.values(self.scored["top"], "top", [Copy("", ()), *top])["converged"]
        self.effects = {"groups": self._effects(drops, predicted, size), "thirds": self._thirds(scores, size)}
        shared = {"step": step, "averaged": self.setting.averaged}
        for statistic in ("spearman", "pearson", "sign"):
            yield from agreements("group", statistic, predicted, drops, names, draws=self.setting.draws, **shared)
        yield from planted_auc(self.labels, scores, statistic="auc harmful", draws=self.setting.draws // 4, **shared)
        noise = np.where(self.labels > 0, 1, 0)
        noise[:, 12 * size :] = -1
        yield from planted_auc(noise, scores, statistic="auc noise", draws=self.setting.draws // 4, **shared)
        yield from self._removed(top, of_top, step)

    def _effects(self, drops_KSQ: np.ndarray, predicted: Mapping[str, np.ndarray], size: int) -> dict[str, dict[str, float]]:
        """Return what leaving out a group costs its query by its kind, in nats: realised, and predicted by methods in nats."""
        own, kinds = self.labels[:, ::size], {}  # [Q,K]
        kinds["helpful"], kinds["harmful"] = own > 0, own < 0
        kinds["noise"] = np.tile(np.arange(own.shape[1]) >= 12, (len(own), 1))
        kinds["of other topics"] = (own == 0) & ~kinds["noise"]
        found = {"realised": drops_KSQ.mean(1).T} | {m: predicted[m].mean(0).T for m in IN_NATS}
        return {m: {k: float(x[chosen].mean()) for k, chosen in kinds.items()} for m, x in found.items()}

    def _thirds(self, scores: Mapping[str, np.ndarray], size: int) -> dict[str, dict[str, float]]:
        """Return what leaving out a third of a query's helpful texts costs it, in nats (mean over queries, and its
        standard error over seeds), thirds by score; and what as many noise texts cost: is all that is called helpful so?"""
        copies, wanted = [Copy("", ())], []
        noise = np.arange(12 * size, len(self.texts))
        for method in ("ekfac", "refined"):
            for q, labels in enumerate(self.labels):
                score, helpful = scores[method].mean(0)[q], np.flatnonzero(labels > 0)
                thirds = np.array_split(helpful[np.argsort(score[helpful], kind="stable")], 3)
                parts = dict(zip(("lowest", "middle", "highest"), thirds, strict=True))
                parts["noise"] = rng(self.corpus.seed, "truth-thirds", q).permutation(noise)[: len(thirds[0])]
                for part, chosen in parts.items():
                    copies.append(Copy(f"{method}|{q}|{part}", tuple(sorted(chosen.tolist()))))
                    wanted.append((f"{method}, {part}", q, float(score[chosen].sum())))
        values = self.values(self.scored["top"], "thirds", copies)["converged"]
        drops, found = values[:1] - values[1:], {}
        for name in dict.fromkeys(n for n, _, _ in wanted):
            own = [(drops[k, :, q], predicted) for k, (n, q, predicted) in enumerate(wanted) if n == name]
            of_seeds = np.mean([d for d, _ in own], axis=0)
            error = float(of_seeds.std(ddof=1) / np.sqrt(len(of_seeds)))
            found[name] = {"realised": float(of_seeds.mean()), "error": error, "predicted": float(np.mean([x for _, x in own]))}
        return found

    def _top(self, scores: Mapping[str, np.ndarray]) -> list[Copy]:
        """Return the removal of every method's top for every query, by the mean over models, and of random texts."""
        copies = []
        for method in TOP:
            for q, query in enumerate(self.queries):
                ranked = np.argsort(-scores[method].mean(0)[q], kind="stable")
                copies += [Copy(f"{method}|{query.name}|{c}", tuple(sorted(ranked[:c].tolist()))) for c in self.setting.counts]
        for c in self.setting.counts:
            for k in range(self.setting.controls):
                chosen = rng(self.corpus.seed, "truth-control", c, k).permutation(len(self.texts))[:c]
                copies.append(Copy(f"control|{k}|{c}", tuple(sorted(chosen.tolist()))))
        return copies

    def _removed(self, top: Sequence[Copy], values: np.ndarray, step: int) -> Iterator[Validation]:
        drops = dict(zip([c.group for c in top], values[:1] - values[1:], strict=True))
        for c in self.setting.counts:
            random = np.mean([d for g, d in drops.items() if g.startswith("control|") and g.endswith(f"|{c}")], axis=0)
            found = {}
            for method in TOP:
                found[method] = np.stack([drops[f"{method}|{q.name}|{c}"][:, n] for n, q in enumerate(self.queries)], 1)
            shared = {"step": step, "n_controls": self.setting.controls, "draws": self.setting.draws}
            yield from removal_drops(found, random, statistic=f"top-{c}", **shared)


# ---- report ----

BARS = (("refined", 0.64), ("ekfac", 0.60), ("gradient_dot", 0.48))


def shown(corpus: Corpus, bench: Bench, records: Sequence[Validation]) -> str:
    """Return the records over all queries as text."""
    lines = []
    points = {done: p for p, done in bench.points.items()}
    for kind, statistic, step in dict.fromkeys((r.kind, r.statistic, r.step) for r in records):
        chosen = [r for r in records if (r.kind, r.statistic, r.step, r.query) == (kind, statistic, step, "all")]
        ceiling = "" if chosen[0].ceiling is None else f", ceiling {chosen[0].ceiling:.3f}"
        lines.append(f"\n{corpus.name}, {points[step]} ({step} steps): {kind} {statistic}{ceiling}")
        by_method: dict[str, list[Validation]] = {}
        for r in chosen:
            by_method.setdefault(r.method, []).append(r)
        for method, rows in sorted(by_method.items(), key=lambda pair: -pair[1][-1].value):
            cells = [
                f"{rows[-1].value:6.3f} [{rows[-1].low:6.3f},{rows[-1].high:6.3f}] minus {rows[-1].reference} "
                f"{rows[-1].minus_reference:+.3f} [{rows[-1].minus_low:+.3f},{rows[-1].minus_high:+.3f}]",
                *(f"{r.models_averaged}: {r.value:.3f}" for r in rows),
            ]
            lines.append(f"  {method:18s} " + "  ".join(cells))
    for name, told in bench.effects.items():
        lines.append(f"\n{corpus.name}: what leaving out costs in nats, {name}")
        lines += [f"  {m:22s} " + ", ".join(f"{k} {v:.2f}" for k, v in found.items()) for m, found in told.items()]
    return "\n".join(lines)


def main() -> int:
    """Run, print, and write the held-out corpora's records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    held_out = [c.name for c in CORPORA.values() if not c.tuning]
    parser.add_argument("--corpora", nargs="*", choices=list(CORPORA), default=held_out)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--quick", action="store_true", help="3 seeds, 12 subsets; prints, writes nothing")
    asked = parser.parse_args()
    prepare_process(Resources(threads=1))
    until = time.monotonic() + 60 * asked.minutes
    ctx = StepContext(runtime=Resources(threads=1, checkpoint_seconds=60), stop=lambda: time.monotonic() > until)
    setting = Setting(3, 4, (1, 4), subsets=12, queries=12, controls=2, draws=100) if asked.quick else Setting()
    for name in asked.corpora:
        bench = Bench(CORPORA[name], setting, KEPT, ctx)
        try:
            records = bench.run()
        except Interrupted as stopped:
            print(f"{name}: {stopped}")
            return 130
        print(shown(CORPORA[name], bench, records), flush=True)
        print(f"{name}: {sum(bench.cpu_s.values()):.0f} CPU-seconds", flush=True)
        if not asked.quick and not CORPORA[name].tuning:
            keep_result(setting, name, bench, records)
    return 0


def keep_result(setting: Setting, name: str, bench: Bench, records: Sequence[Validation]) -> None:
    """Put a held-out corpus into truth.json; corpora measured under the same settings stay."""
    settings = {
        "setting": asdict(setting) | {"model": asdict(CONFIG), "train": TRAIN, "steps": STEPS, "batch": BATCH, "early_point": EARLY},
        "methods": {"modules": MODULES, "damping": DAMPING, "refined_damping": REFINED_DAMPING, "exact_damping": EXACT,
                    "refined": {n: asdict(r) for n, r in REFINED.items()}, "top": list(TOP)},
        "tuned_on": [c.name for c in CORPORA.values() if c.tuning],
    }  # fmt: skip
    settings = json.loads(json.dumps(settings))
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    corpora = before.get("corpora", {}) if all(before.get(k) == v for k, v in settings.items()) else {}
    rows = [{k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(r).items()} for r in records if r.query == "all"]
    effects = {name: {m: {k: round(v, 3) for k, v in t.items()} for m, t in told.items()} for name, told in bench.effects.items()}
    corpora[name] = {"cpu_s": round(sum(bench.cpu_s.values()), 1), "points": bench.points, "code": source_digests(), "records": rows}
    corpora[name] |= {"effects": effects} if effects else {}
    wanted = dict(BARS)
    bars = [
        {"corpus": c, "step": r["step"], "method": r["method"], "bar": wanted[r["method"]], "reached": r["value"],
         "minus_ekfac": [r["minus_reference"], r["minus_low"], r["minus_high"]]}
        for c, found in corpora.items() for r in found["records"]
        if r["kind"] == "lds" and r["models_averaged"] == max(setting.averaged) and r["method"] in wanted
    ]  # fmt: skip
    machine = {"python": platform.python_version(), "torch": torch.__version__, "processor": platform.machine()}
    text = json.dumps(settings | {"bars": bars, "machine": machine, "corpora": corpora}, indent=1)
    RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
