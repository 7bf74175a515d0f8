"""How well influence predicts retraining: linear datamodelling score, groups left out, top removed; every method.

    python benchmarks/truth.py                      held-out corpora; writes benchmarks/results/truth.json
    python benchmarks/truth.py --corpora successor  the tuning corpus alone; prints, writes nothing
    python benchmarks/truth.py --minutes 7          stops by then (exit 130); the same command goes on where it stopped

Small models of the embedded kind (2 layers, 2,900 parameters) are trained on 192 short texts; 100 random halves x 5 seeds
are trained again, all copies as one batch, and every method's summed scores are compared with what the copies
reached on 48 other texts (Park et al. 2023). Early-stopped and converged models are two points of the same runs.
Settings of methods were fixed before, with a pilot on the corpus `successor` (--quick); the others come from other
generators with other seeds and are run once. `planted` holds groups that must help, must hurt, and noise. Pieces are
kept in runs/truth of the repository, so that a stopped benchmark goes on, and corpora in the results stay when others
are run. Intervals resample subsets and queries, not seeds or corpora.
Not covered: real text, larger models, other optimisers than AdamW.
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
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from leaven.attribution import exact
from leaven.attribution.agreement import Validation, agreements, planted_auc, removal_drops
from leaven.attribution.copies import Copies, NumberedOrder, train_copies
from leaven.attribution.factors import Damping, fit_factors
from leaven.attribution.methods import BASELINES, Scene, Settings, baseline_scores
from leaven.attribution.passes import Tracked
from leaven.attribution.queries import Query, query_gradients, single_queries
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
VOCAB, LONGEST = 24, 14
CONFIG = TinyConfig(vocab=VOCAB, width=12, layers=2, heads=2, kv_heads=2, ffn=16, max_tokens=LONGEST)
TRAIN = {"lr": 5e-3, "schedule": "constant", "warmup_steps": 10, "clip": 1.0, "weight_decay": 0.0, "dtype": "fp32"}
STEPS, BATCH, POINTS = 300, 16, 6
EARLY = 2
"""Which of the six points is the early-stopped model."""


# ---- corpora ----


@dataclass(frozen=True)
class Corpus:
    """A generator: (stream, topic, "helpful" | "harmful" | "noise") -> token ids; `topics` it has."""

    name: str
    tuning: bool
    seed: int
    topics: int
    draw: Callable[[np.random.Generator, int, str], np.ndarray]
    planted: bool = False

    def make(self, n_train: int, n_queries: int) -> tuple[list[Text], list[Query], np.ndarray]:
        """Return training texts, queries, and labels int[Q,N] (+1 helpful, -1 harmful, 0 neither; zeros if unplanted)."""
        stream = rng(self.seed, "truth", self.name)
        kinds = [(k % self.topics, "helpful") for k in range(n_train)]
        if self.planted:  # 16 groups of 12: per topic two that help and one that hurts, and four of noise
            groups = [(t, kind) for t in range(self.topics) for kind in ("helpful", "helpful", "harmful")]
            groups += [(0, "noise")] * 4
            kinds = [g for g in groups for _ in range(n_train // len(groups))]
        texts = [_text(f"n{k:03d}", self.draw(stream, t, kind)) for k, (t, kind) in enumerate(kinds)]
        asked = [(k % self.topics, _text(f"q{k:03d}", self.draw(stream, k % self.topics, "helpful"))) for k in range(n_queries)]
        labels = np.zeros((self.topics if self.planted else n_queries, n_train), int)
        if not self.planted:
            return texts, single_queries([t for _, t in asked]), labels
        for n, (topic, kind) in enumerate(kinds):
            labels[topic, n] = {"helpful": 1, "harmful": -1, "noise": 0}[kind]
        queries = [Query(f"topic-{t}", tuple(x for topic, x in asked if topic == t)) for t in range(self.topics)]
        return texts, queries, labels


def _text(name: str, ids: np.ndarray) -> Text:
    learn = np.ones(len(ids), np.float32)
    return Text(example=name, ids=ids.astype(np.int64), learn=learn, segment=np.zeros(len(ids), np.int32), source="made", format="plain")


def successor(stream: np.random.Generator, topic: int, kind: str) -> np.ndarray:
    """Each topic counts in its own steps through all tokens, with noise."""
    size = int(stream.integers(9, LONGEST))
    step = (1, 5, 7, 11)[topic] if kind == "helpful" else (1, 5, 7, 11)[topic - 1]
    ids = np.zeros(size, int)
    ids[0] = topic
    for k in range(1, size):
        follows = kind != "noise" and stream.random() < 0.75
        ids[k] = (ids[k - 1] + step) % VOCAB if follows else stream.integers(VOCAB)
    return ids


def clauses(stream: np.random.Generator, topic: int, kind: str) -> np.ndarray:
    """Clauses of subject, verb, object and stop; verb and object must agree with the subject in ways of the topic."""
    ids = [20 + topic]
    for _ in range(int(stream.integers(2, 4))):
        subject = int(stream.integers(6))
        shift = topic + (2 if kind == "harmful" else 0)
        verb = 6 + (subject * (1 + topic % 2) + shift) % 6 if stream.random() < 0.85 else 6 + int(stream.integers(6))
        thing = 12 + (subject + verb + shift) % 7 if stream.random() < 0.85 else 12 + int(stream.integers(7))
        ids += [subject, verb, thing, 19]
    found = np.array(ids)
    return np.concatenate([found[:1], stream.integers(VOCAB, size=len(ids) - 1)]) if kind == "noise" else found


def sums(stream: np.random.Generator, topic: int, kind: str) -> np.ndarray:
    """Running sums of small numbers in the topic's modulus: state, addend, state, addend, ..."""
    modulus = (5, 7, 8, 10)[topic]
    wrong = 1 + int(stream.integers(modulus - 1)) if kind == "harmful" else 0
    state, ids = int(stream.integers(modulus)), [20 + topic]
    for _ in range(int(stream.integers(4, 7))):
        addend = int(stream.integers(4))
        ids += [state, 10 + addend]
        state = (state + addend + wrong) % modulus if stream.random() < 0.9 else int(stream.integers(modulus))
    found = np.array(ids)
    return np.concatenate([found[:1], stream.integers(VOCAB, size=len(ids) - 1)]) if kind == "noise" else found


def ranges(stream: np.random.Generator, topic: int, kind: str) -> np.ndarray:
    """Up and down within the topic's six tokens: neighbours follow each other; harmful texts jump by half the range."""
    size, low = int(stream.integers(8, LONGEST)), 6 * topic
    at, way = int(stream.integers(6)), int(stream.choice([-1, 1]))
    ids = []
    for _ in range(size):
        ids.append(low + at)
        move = 3 if kind == "harmful" else way
        at = (at + move) % 6 if stream.random() < 0.85 else int(stream.integers(6))
    return stream.integers(VOCAB, size=size) if kind == "noise" else np.array(ids)


CORPORA = {
    c.name: c
    for c in (
        Corpus("successor", True, 11, 4, successor),
        Corpus("clauses", False, 101, 4, clauses),
        Corpus("planted", False, 303, 4, ranges, planted=True),
        Corpus("sums", False, 202, 4, sums),
    )
}


# ---- methods: fixed on `successor` ----

MODULES = "linear+head"
DAMPING = {"ekfac": 0.1, "ekfac_1": 1.0}
REFINED = {
    "refined": Refinement("krylov", passes=4),
    "refined_stochastic": Refinement("stochastic", steps=64, batch_texts=16),
}
REFINED_DAMPING = 1.0
EXACT = {"exact_ggn": 1.0, "exact_ggn_0.1": 0.1}
"""Dense matrices, of converged models alone: they take half of the time."""
TOP = ("ekfac", "refined", "gradient_dot", "tracin_adam", "bm25", "loss")
"""Methods whose top is removed and trained again without."""


def scores_of(
    tracked: Tracked, texts: Sequence[Text], queries: Sequence[Query], path: Sequence[Checkpoint], with_exact: bool
) -> dict[str, np.ndarray]:
    """Return the scores of every method, [Q,N] each."""
    names = [q.name for q in queries]
    gradients = query_gradients(tracked, queries)
    factors = fit_factors(tracked, texts)
    found = {}
    for name, value in DAMPING.items():
        solved = factors.precondition(gradients, factors.damping(Damping("relative", value)))
        found[name] = text_scores(tracked, texts, Targets(tuple(names), {n: v / len(texts) for n, v in solved.items()}))
    for name, how in REFINED.items():
        solved = refine(tracked, texts, gradients, factors, factors.damping(Damping("relative", REFINED_DAMPING)), how).vectors
        found[name] = text_scores(tracked, texts, Targets(tuple(names), {n: v / len(texts) for n, v in solved.items()}))
    if with_exact:
        matrix, of_texts = exact.curvature(tracked, texts), exact.gradients(tracked, texts)
        for name, value in EXACT.items():
            damping = exact.mean_diagonal_damping(tracked, matrix, value)
            found[name] = exact.exact_scores(tracked, matrix, damping, exact.flatten(tracked, gradients), of_texts).numpy()
    settings = Settings(betas=(0.9, 0.95), less_dims=1024, projected_dims=1024)
    scene = Scene(tracked, texts, queries, gradients=lambda: gradients, checkpoints=lambda: path, settings=settings)
    return found | baseline_scores(list(BASELINES), scene)


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
    """How much of everything."""

    seeds: int = 5
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
        said = [corpus.name, corpus.seed, repr(CONFIG), TRAIN, STEPS, BATCH, POINTS, repr(setting), MODULES, DAMPING, repr(REFINED),
                REFINED_DAMPING, EXACT, TOP, ids]  # fmt: skip
        self.kept = kept / f"{corpus.name}-{hashlib.sha256(json.dumps(said).encode()).hexdigest()[:10]}"
        self.kept.mkdir(parents=True, exist_ok=True)
        self.keys = sorted(("made", t.example) for t in self.texts)
        points = sorted(kept_steps(STEPS, {"checkpoints": POINTS}))
        self.points = {"early": points[EARLY - 1], "converged": points[-1]}
        self.all_points = points

    def piece(self, name: str, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return a kept piece, or make and keep it with the CPU-seconds it took."""
        path = self.kept / f"{name}.npz"
        if not path.is_file():
            self.ctx.check_stop()
            print(f"{self.corpus.name}: {name}", flush=True)
            began = time.process_time()
            found = dict(make())
            part = path.with_name(f"_{path.name}")
            np.savez(part, **found, cpu_s=np.array(time.process_time() - began))
            part.replace(path)
        with np.load(path) as archive:
            return {k: archive[k] for k in archive.files}

    def cpu_seconds(self) -> float:
        """Return what all pieces took."""
        total = 0.0
        for path in sorted(self.kept.glob("*.npz")):
            with np.load(path) as archive:
                total += float(archive["cpu_s"])
        return total

    def models(self, seed: int) -> dict[int, dict[str, Any]]:
        """Return the models of a seed trained on everything, by step."""
        flat: dict[str, np.ndarray] = {}

        def make() -> Mapping[str, np.ndarray]:
            for done, model in train_whole(self.texts, self.queries, seed).items():
                flat.update({f"{done}|{part}|{n}": v.numpy() for part, named in model.items() for n, v in named.items()})
            return flat

        result: dict[int, dict[str, Any]] = {d: {"weights": {}, "first": {}, "second": {}} for d in self.all_points}
        for key, value in self.piece(f"model-{seed}", make).items():
            if key != "cpu_s":
                done, part, name = key.split("|")
                result[int(done)][part][name] = torch.from_numpy(value)
        return result

    def scores(self, seed: int, point: str) -> dict[str, np.ndarray]:
        """Return the scores of every method on one model, [Q,N]."""

        def make() -> Mapping[str, np.ndarray]:
            models, done = self.models(seed), self.points[point]
            tracked, with_exact = open_tracked(models[done]["weights"]), point == "converged" and not self.corpus.planted
            return scores_of(tracked, self.texts, self.queries, path_of(models, done), with_exact)

        found = self.piece(f"scores-{point}-{seed}", make)
        found.pop("cpu_s")
        return found

    def all_scores(self, point: str) -> dict[str, np.ndarray]:
        """Return the scores of every method, [M,Q,N]."""
        found = [self.scores(s, point) for s in range(self.setting.seeds)]
        return {m: np.stack([f[m] for f in found]) for m in found[0]}

    def retrained(self, name: str, copies: Sequence[Copy], seed: int) -> np.ndarray:
        """Return the values of every query for every copy and point, float64[C,S,Q]."""
        queries = [Query(q.name, tuple(replace(t, weight=1 / len(q.texts)) for t in q.texts)) for q in self.queries]
        work = Work(
            model=init_tiny(CONFIG, seed), train=TRAIN, order=order_of(self.texts, seed), keys=self.keys, copies=copies,
            queries=queries, points=self.all_points, seed=seed,
        )  # fmt: skip
        kept = self.kept / f"resume-{name}-{seed}"
        return self.piece(f"{name}-{seed}", lambda: {"values": run_copies(work, kept, self.ctx)[0]})["values"]

    def values(self, name: str, copies: Sequence[Copy]) -> dict[str, np.ndarray]:
        """Return the values at both points, {point: [C,seeds,Q]}."""
        found = np.stack([self.retrained(name, copies, s) for s in range(self.setting.seeds)])
        return {p: found[:, :, self.all_points.index(done)].transpose(1, 0, 2) for p, done in self.points.items()}

    # -- judging --

    def run(self) -> list[Validation]:
        """Return the records of this corpus."""
        return list(self._planted() if self.corpus.planted else self._subsets())

    def _subsets(self) -> Iterator[Validation]:
        spec = {"kind": "half", "n": self.setting.subsets, "fraction": 0.5, "seed": self.corpus.seed}
        copies = plan_copies(spec, self.keys, {})
        values = self.values("half", copies)
        kept = weights_of(copies, len(self.texts))[1:]
        for point, realised in values.items():
            predicted = {m: predicted_values(s, kept) for m, s in self.all_scores(point).items()}
            shared = {"step": self.points[point], "draws": self.setting.draws}
            yield from agreements("lds", "spearman", predicted, realised[1:], [q.name for q in self.queries], **shared)

    def _planted(self) -> Iterator[Validation]:
        size = self.setting.train // 16
        groups = [Copy(f"group-{g}", tuple(range(g * size, (g + 1) * size))) for g in range(16)]
        names, step = [q.name for q in self.queries], self.points["converged"]
        scores = self.all_scores("converged")
        top = self._top(scores)
        values = self.values("planted", [Copy("", ()), *groups, *top])["converged"]
        drops = (values[:1] - values[1:])[: len(groups)]
        gone = 1 - weights_of(groups, len(self.texts))
        predicted = {m: predicted_values(s, gone) for m, s in scores.items()}
        for statistic in ("spearman", "pearson", "sign"):
            yield from agreements("group", statistic, predicted, drops, names, step=step, draws=self.setting.draws)
        yield from planted_auc(self.labels, scores, statistic="auc harmful", step=step, draws=self.setting.draws // 4)
        noise = np.where(self.labels > 0, 1, 0)
        noise[:, 12 * size :] = -1
        yield from planted_auc(noise, scores, statistic="auc noise", step=step, draws=self.setting.draws // 4)
        yield from self._removed(top, values, step)

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
        drops = dict(zip([c.group for c in top], (values[:1] - values[1:])[16:], strict=True))
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
                f"{r.models_averaged} model{'s' * (r.models_averaged > 1)} {r.value:6.3f} [{r.low:6.3f},{r.high:6.3f}] "
                f"minus {r.reference} {r.minus_reference:+.3f} [{r.minus_low:+.3f},{r.minus_high:+.3f}]"
                for r in rows
            ]
            lines.append(f"  {method:18s} " + "   ".join(cells))
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
    setting = Setting(seeds=3, subsets=12, queries=12, controls=2, draws=100) if asked.quick else Setting()
    for name in asked.corpora:
        bench = Bench(CORPORA[name], setting, KEPT, ctx)
        try:
            records = bench.run()
        except Interrupted as stopped:
            print(f"{name}: {stopped}")
            return 130
        print(shown(CORPORA[name], bench, records), flush=True)
        print(f"{name}: {bench.cpu_seconds():.0f} CPU-seconds", flush=True)
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
    corpora[name] = {"cpu_s": round(bench.cpu_seconds(), 1), "points": bench.points, "records": rows}
    wanted = dict(BARS)
    bars = [
        {"corpus": c, "step": r["step"], "method": r["method"], "bar": wanted[r["method"]], "reached": r["value"],
         "minus_ekfac": [r["minus_reference"], r["minus_low"], r["minus_high"]]}
        for c, found in corpora.items() for r in found["records"]
        if r["kind"] == "lds" and r["models_averaged"] == setting.seeds and r["method"] in wanted
    ]  # fmt: skip
    machine = {"python": platform.python_version(), "torch": torch.__version__, "processor": platform.machine()}
    text = json.dumps(settings | {"bars": bars, "machine": machine, "corpora": corpora}, indent=1)
    RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
