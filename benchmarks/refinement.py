"""How near EK-FAC and its refinement come to the full damped Gauss-Newton matrix, within a counted number of passes.

    python benchmarks/refinement.py                        every case; writes benchmarks/results/refinement.json
    python benchmarks/refinement.py --sizes 5k --seeds 0   some cases; the others in the file stay
    python benchmarks/refinement.py --memory krylov        the 1M-parameter model alone: time and peak memory (or stochastic)

Three corpora made here (arithmetic of the embedded world, planted groups with noise, windows of a small character
text), three seeds each, models of about 5,000 and 50,000 tracked parameters trained a little. Damping is 1 x the mean eigenvalue of
every layer, the same numbers in every method and in the reference. The reference is a dense solution at 5k and block
conjugate gradients in fp64 to a residual of 1e-3 at 50k (preconditioned by what refinement knows after 8 passes, which
decides its cost, not its solution). Agreement is Spearman over training texts, per query, then
averaged; top10 is the shared share of the ten highest. A pass is one product with the whole data per query: products
for step sizes and guards are counted. References are kept in --cache, so a stopped benchmark goes on.
Not covered: agreement with retraining (benchmarks/truth.py), speed (benchmarks/attribution.py).
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor

from leaven.attribution import exact, reference
from leaven.attribution.factors import Damping, Factors, fit_factors
from leaven.attribution.passes import Tracked, Vectors
from leaven.attribution.queries import query_gradients, single_queries
from leaven.attribution.refine import Refinement, Space, System, orthonormal, refine
from leaven.attribution.texts import BATCH_TOKENS, Text
from leaven.core.rng import rng
from leaven.core.step import StepContext
from leaven.data.sources.world.build import generate
from leaven.lm.tiny import TinyTrainable
from leaven.lm.tiny_model import TinyConfig, init_tiny

RESULTS = Path(__file__).parent / "results" / "refinement.json"
MAX_TOKENS = 16
DIGITS = "0123456789+-*/=;ab"
LETTERS = "abcdefghijklmnopqrstuvwxyz. "
WHO = ("the cook", "a small bird", "our teacher", "the old ship", "a red fox", "the rain")
DOES = ("found", "kept", "lost", "saw", "made", "gave up")
WHAT = ("bread", "the long road", "a warm coat", "two keys", "green glass", "old songs")


# -- corpora: n, seed, split -> texts --


def arithmetic(n: int, seed: int, split: str) -> list[Text]:
    """Return the first definition and the computation of `variables` problems, such as a=2;a-37=-35, by character."""
    texts = []
    for problem in generate("variables", [1], n, seed, split):  # type: ignore[arg-type]
        given = re.search(r"Given that ([^,]*),", problem.question).group(1)  # type: ignore[union-attr]
        _, rule, *_, value = problem.thought.split("\n")[0].split(" = ")
        names = {letter: "ab"[k] for k, letter in enumerate(dict.fromkeys(re.findall(r"[a-z]", given)))}
        line = re.sub(r"[a-z]", lambda m, n=names: n.get(m.group(), "b"), f"{given};{rule}={value}".replace(" ", ""))
        texts.append(_text(problem.id, [DIGITS.index(c) for c in line][:MAX_TOKENS]))
    return texts


def planted(n: int, seed: int, split: str) -> list[Text]:
    """Return four topics with a successor rule each, a quarter of them by a contradicting rule, and a fifth of noise."""
    draw, texts = rng(seed, "refinement-planted", split), []
    for k in range(n):
        topic = int(draw.integers(5))
        if topic == 4:
            ids = draw.integers(0, 20, size=11).tolist()
        else:
            step, ids = 3 if draw.random() < 0.25 else 1, [int(draw.integers(5))]
            while len(ids) < 11:
                ids.append((ids[-1] + step) % 5 if draw.random() < 0.85 else int(draw.integers(5)))
            ids = [5 * topic + i for i in ids]
        texts.append(_text(f"planted-{k}", [20 + min(topic, 3), *ids]))
    return texts


def characters(n: int, seed: int, split: str) -> list[Text]:
    """Return windows of 12 characters of sentences from a small grammar."""
    draw, texts = rng(seed, "refinement-characters", split), []
    for k in range(n):
        line = "".join(" ".join(str(draw.choice(words)) for words in (WHO, DOES, WHAT)) + ". " for _ in range(2))
        at = int(draw.integers(0, len(line) - 12))
        texts.append(_text(f"characters-{k}", [LETTERS.index(c) for c in line[at : at + 12]]))
    return texts


CORPORA: dict[str, tuple[Callable[[int, int, str], list[Text]], int]] = {
    "arithmetic": (arithmetic, len(DIGITS)),
    "planted": (planted, 24),
    "characters": (characters, len(LETTERS)),
}


def _text(name: str, ids: list[int]) -> Text:
    return Text(example=name, ids=np.asarray(ids, np.int64), learn=np.ones(len(ids), np.float32), source="refinement")


# -- models --


@dataclass(frozen=True)
class Size:
    """A model, how much data, how many queries, steps of training, and labels drawn per position for EK-FAC (with far fewer
    texts than parameters one draw leaves most eigenvalues unknown)."""

    width: int
    layers: int
    ffn: int
    heads: int
    texts: int
    queries: int
    steps: int
    draws: int


SIZES = {
    "5k": Size(16, 2, 32, 2, 192, 32, 300, 1),
    "50k": Size(40, 3, 84, 2, 128, 8, 100, 16),
    "1m": Size(128, 6, 256, 4, 512, 8, 60, 1),
}


@dataclass(frozen=True, eq=False)
class Case:
    """What every method of a case gets."""

    tracked: Tracked
    texts: list[Text]
    gradients: Vectors
    factors: Factors
    damping: dict[str, float]
    text_gradients: Tensor
    losses: tuple[float, float]


def build(corpus: str, size: str, seed: int, *, with_gradients: bool = True) -> Case:
    """Train a model and fit EK-FAC."""
    (make, vocab), shape = CORPORA[corpus], SIZES[size]
    texts, asked = make(shape.texts, seed, "train"), make(shape.queries, seed, "test")
    config = TinyConfig(
        vocab=vocab, width=shape.width, layers=shape.layers, heads=shape.heads, kv_heads=shape.heads, ffn=shape.ffn,
        max_tokens=MAX_TOKENS,
    )  # fmt: skip
    model = TinyTrainable(init_tiny(config, seed), None)  # type: ignore[arg-type]
    losses = _train(model, texts, asked, seed, shape.steps)
    tracked = Tracked(model, "linear")
    again = [replace(t, example=f"{t.example}#{k}" if k else t.example) for t in texts for k in range(shape.draws)]
    factors = replace(fit_factors(tracked, again, seed=seed), n_texts=len(texts))
    gradients = query_gradients(tracked, single_queries(asked))
    found = exact.gradients(tracked, texts) if with_gradients else torch.zeros(0, 0)
    return Case(tracked, texts, gradients, factors, factors.damping(Damping("relative", 1.0)), found, losses)


def _train(model: TinyTrainable, texts: list[Text], asked: list[Text], seed: int, steps: int) -> tuple[float, float]:
    """Run AdamW on batches of 32; return mean losses per token of training and query texts."""
    module, order = model.module, rng(seed, "refinement-order")
    with torch.no_grad():  # matrices larger than the default for wider models, so that few steps train them
        for parameter in module.parameters():
            if parameter.dim() == 2:
                parameter.mul_(5.0)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=0.01)

    def loss(chosen: list[Text]) -> Tensor:
        ids = torch.zeros(len(chosen), MAX_TOKENS, dtype=torch.long)
        weights = torch.zeros(len(chosen), MAX_TOKENS)
        for row, text in enumerate(chosen):
            ids[row, : len(text.ids)] = torch.from_numpy(text.ids)
            weights[row, : len(text.ids)] = torch.from_numpy(text.token_weights()).float()
        each = F.cross_entropy(module(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return (each * weights[:, 1:].flatten()).sum() / weights.sum()

    for _ in range(steps):
        optimizer.zero_grad()
        loss([texts[n] for n in order.choice(len(texts), 32, replace=False)]).backward()
        optimizer.step()
    module.zero_grad(set_to_none=True)
    with torch.no_grad():
        return float(loss(texts)), float(loss(asked))


def reference_scores(case: Case, size: str, kept: Path) -> tuple[Tensor, dict[str, Any]]:
    """Return the scores of the full damped matrix [Q,N] and how exact they are, from `kept` where they are there."""
    if kept.is_file():
        found = np.load(kept, allow_pickle=False)
        return torch.from_numpy(found["scores"]), json.loads(str(found["facts"]))
    began = time.process_time()
    if size == "5k":
        matrix = exact.curvature(case.tracked, case.texts)
        right = exact.flatten(case.tracked, case.gradients)
        scores = exact.exact_scores(case.tracked, matrix, case.damping, right, case.text_gradients)
        facts: dict[str, Any] = {"how": "dense"}
    else:
        halfway = kept.with_suffix(".safetensors")
        ctx = StepContext(progress=lambda done, total, note: print(f"  {kept.stem} {note}, pass {done:.0f}", flush=True))
        solved = reference.solve(
            case.tracked, case.texts, case.gradients, case.factors, case.damping, near=_near(case), resume=halfway, ctx=ctx
        )
        halfway.unlink(missing_ok=True)
        scores = exact.flatten(case.tracked, solved.vectors) @ case.text_gradients.double().t() / len(case.texts)
        facts = {"how": "block conjugate gradients, fp64", "residual": float(solved.residual.max()), "passes": solved.passes}
    facts["cpu_s"] = round(time.process_time() - began, 1)
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.savez(kept, scores=scores.numpy(), facts=json.dumps(facts))
    return scores, facts


def _near(case: Case, passes: int = 8) -> Callable[[Tensor], Tensor]:
    """Return the preconditioner of the reference: what refinement knows of the matrix after `passes`, as a function of
    flat vectors. The residual of the reference is measured without it."""
    system = System(case.tracked, case.texts, case.factors, case.damping, BATCH_TOKENS, StepContext())
    b = system.whiten(case.gradients)
    space = Space(system, [], list(range(len(case.texts))), b, passes)
    for _ in range(passes):
        space.grow(orthonormal(space.remaining(b), space.basis))
    inverse = space.inverse()

    def near(r_QP: Tensor) -> Tensor:
        found = inverse(system.whiten(exact.unflatten(case.tracked, r_QP.float())))
        return exact.flatten(case.tracked, system.solution(found)).double()

    return near


# -- methods --

METHODS: dict[str, dict[str, Refinement | None]] = {
    "5k": {"ekfac": None, "krylov 4": Refinement(passes=4), "stochastic 160 x 6": Refinement("stochastic")},
    "50k": {
        "ekfac": None,
        "krylov 4": Refinement(passes=4),
        "krylov 8": Refinement(passes=8),
        "stochastic 160 x 6": Refinement("stochastic"),
    },
}
MEMORY = {"krylov": Refinement(passes=3), "stochastic": Refinement("stochastic")}
BARS = {  # size, method: least Spearman with the full damped matrix, most passes
    ("5k", "krylov 4"): (0.90, 4.0),
    ("50k", "krylov 8"): (0.85, 8.0),
    ("50k", "stochastic 160 x 6"): (0.80, 10.0),
}


def measure(case: Case, wanted_QN: Tensor, how: Refinement | None) -> dict[str, Any]:
    """Return the agreement of one method, what it spent and what its guard saw."""
    began = time.process_time()
    row: dict[str, Any] = {}
    if how is None:
        vectors = case.factors.precondition(case.gradients, case.damping)
    else:
        found = refine(case.tracked, case.texts, case.gradients, case.factors, case.damping, how)
        vectors = found.vectors
        row = {
            "passes": round(found.passes, 3),
            "worst_residual_against_ekfac": round(float(found.residual.max()), 4),
            "kept_whole": int((found.kept == 1).sum()),
        }
    row["cpu_s"] = round(time.process_time() - began, 1)
    scores = exact.flatten(case.tracked, vectors) @ case.text_gradients.t()
    return {"spearman": round(_spearman(scores, wanted_QN), 4), "top10": round(_top(scores, wanted_QN), 3)} | row


def _spearman(found_QN: Tensor, wanted_QN: Tensor) -> float:
    ranks = [np.apply_along_axis(rankdata, 1, x.numpy()) for x in (found_QN, wanted_QN)]
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*ranks, strict=True)]))


def _top(found_QN: Tensor, wanted_QN: Tensor, k: int = 10) -> float:
    tops = [x.topk(k).indices.tolist() for x in (found_QN, wanted_QN)]
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(*tops, strict=True)]))


def run_case(corpus: str, size: str, seed: int, cache: Path) -> list[dict[str, Any]]:
    """Return one row per method."""
    case = build(corpus, size, seed)
    wanted, facts = reference_scores(case, size, cache / f"{corpus}-{size}-{seed}.npz")
    shape = {
        "parameters": sum(o * i for o, i in map(case.tracked.shape, case.tracked.names())),
        "texts": len(case.texts),
        "queries": SIZES[size].queries,
        "tokens_per_text": round(float(np.mean([len(t.ids) for t in case.texts])), 1),
        "loss_training": round(case.losses[0], 3),
        "loss_queries": round(case.losses[1], 3),
        "reference": facts,
    }
    rows = []
    for name, how in METHODS[size].items():
        rows.append({"size": size, "corpus": corpus, "seed": seed, "method": name} | measure(case, wanted, how) | shape)
        print(f"{size} {corpus} seed {seed} {name}: {rows[-1]['spearman']:.3f}, passes {rows[-1].get('passes', 0)}", flush=True)
    return rows


def run_memory(how: Refinement) -> dict[str, Any]:
    """Return time and peak memory of refining on about a million parameters, in this process."""
    case = build("characters", "1m", 0, with_gradients=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.time(), time.process_time()
    found = refine(case.tracked, case.texts, case.gradients, case.factors, case.damping, how)
    return {
        "parameters": sum(o * i for o, i in map(case.tracked.shape, case.tracked.names())),
        "texts": len(case.texts),
        "queries": SIZES["1m"].queries,
        "passes": found.passes,
        "worst_residual_against_ekfac": round(float(found.residual.max()), 4),
        "wall_s": round(time.time() - began, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "peak_rss_mib_before": round(before / 1024),
        "bar_mib": 2048,
    }


def bars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return every bar: the least over corpora and seeds, beside EK-FAC's, and whether it holds."""
    found = []
    for (size, method), (least, most) in BARS.items():
        ours = [r for r in rows if r["size"] == size and r["method"] == method]
        plain = {(r["corpus"], r["seed"]): r["spearman"] for r in rows if r["size"] == size and r["method"] == "ekfac"}
        if not ours:
            continue
        found.append(
            {
                "size": size,
                "method": method,
                "bar": least,
                "most_passes": most,
                "cases": len(ours),
                "least": min(r["spearman"] for r in ours),
                "mean": round(float(np.mean([r["spearman"] for r in ours])), 4),
                "passes": max(r["passes"] for r in ours),
                "ekfac_mean": round(float(np.mean(list(plain.values()))), 4),
                "guard_worst": max(r["worst_residual_against_ekfac"] for r in ours),
                "holds": all(r["spearman"] >= least for r in ours)
                and all(r["worst_residual_against_ekfac"] <= 1 for r in ours)
                and (most is None or max(r["passes"] for r in ours) <= most + 1e-6),
            }
        )
    return found


def main() -> None:
    """Run what was asked for and write the file after every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--corpora", nargs="+", choices=list(CORPORA), default=list(CORPORA))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "leaven-refinement")
    parser.add_argument("--memory", choices=list(MEMORY), help="only the memory of the 1M-parameter model")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = json.loads(args.out.read_text()) if args.out.is_file() else {"rows": []}
    if args.memory:
        found = run_memory(MEMORY[args.memory])
        result.setdefault("memory", {})[args.memory] = found
        print(json.dumps(found))
        _write(args.out, result)
        return
    for seed in args.seeds:
        for size in args.sizes:
            for corpus in args.corpora:
                rows = run_case(corpus, size, seed, args.cache)
                key = (size, corpus, seed)
                kept = [r for r in result["rows"] if (r["size"], r["corpus"], r["seed"]) != key]
                result["rows"] = sorted(kept + rows, key=lambda r: (r["size"], r["corpus"], r["seed"], r["method"]))
                _write(args.out, result)
    for bar in result["bars"]:
        print(f"{'holds' if bar['holds'] else 'FAILS'}: {bar}")


def _write(path: Path, result: dict[str, Any]) -> None:
    result["bars"] = bars(result["rows"])
    result["machine"] = {
        "processor": platform.processor() or platform.machine(),
        "threads": 1,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
