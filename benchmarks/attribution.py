"""CPU-seconds, wall time, memory and disk of EK-FAC influence: leaven against kronfluence and bergson.

    python benchmarks/attribution.py                 all cases, 5 rounds; writes benchmarks/results/attribution.json
    python benchmarks/attribution.py --cases mlp     one case; the others in the file stay
    python benchmarks/attribution.py --quick         a small model, 1 round, no peers; prints, writes nothing

Peers: pip install kronfluence bergson (bergson wants torchvision and torchaudio of the same torch; --no-deps and its
pure Python needs will do). Every system gets the same model (Llama shape, random, 20 training steps), texts (every
position with loss), modules, dtype, empirical Fisher and damping, and must rank as kronfluence in fp32 does. Each
(system, round) runs in its own process on one thread, in an order shuffled per round, and what has been run is kept in
attribution.runs.json beside the results, so that a stopped benchmark goes on. Bars are judged on CPU-seconds, which
other processes disturb least; wall time is printed beside them. bf16 of kronfluence is its faster preset (all low
precision). "tokens" measures leaven alone, on the pass that scores given query vectors: what finer levels add to it.
The floor counts multiplications and divides by this machine's rate for large products, phase by phase.
Not covered: GPUs (tests/attribution/test_gpu.py), true Fisher (labels would differ between systems).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Case:
    """One model and its texts; `positions` of each text carry loss."""

    name: str
    modules: str
    systems: tuple[str, ...]
    layers: int = 2
    width: int = 256
    ffn: int = 1024
    vocab: int = 2048
    positions: int = 128
    texts: int = 128
    queries: int = 16


PEERS = ("kronfluence", "kronfluence_bf16", "bergson", "bergson_bf16", "kronfluence_smart")
OURS = ("leaven", "leaven_bf16")
CASES = {
    c.name: c
    for c in (
        Case("mlp", "mlp", (*OURS, "kronfluence", "kronfluence_bf16")),
        Case("mlp_wide", "mlp", ("leaven", "kronfluence"), width=512, ffn=2048),
        Case("linear", "linear", (*OURS, "kronfluence", "kronfluence_bf16", "bergson", "bergson_bf16")),
        Case("tokens", "linear", ("tokens",), texts=100, queries=32),
    )
}
BARS = (
    ("mlp", "total", "leaven", "kronfluence", 3.0),
    ("mlp_wide", "total", "leaven", "kronfluence", 3.0),
    ("mlp", "total", "leaven_bf16", "kronfluence", 3.0),
    ("mlp", "total", "leaven_bf16", "kronfluence_bf16", 2.5),
    ("linear", "total", "leaven", "kronfluence", 2.0),
    ("linear", "total", "leaven_bf16", "kronfluence_bf16", 2.0),
    ("linear", "total", "leaven", "bergson", 1.5),
    ("linear", "total", "leaven_bf16", "bergson_bf16", 1.5),
    ("mlp", "second", "leaven", "kronfluence", 5.0),
    ("mlp_wide", "second", "leaven", "kronfluence", 5.0),
    ("mlp", "second", "leaven_bf16", "kronfluence_bf16", 5.0),
    ("linear", "second", "leaven", "kronfluence", 5.0),
    ("linear", "second", "leaven_bf16", "kronfluence_bf16", 5.0),
)
"""(case, what, ours, peer, how many times less CPU)."""
AGREEMENT = {"leaven": 0.9999, "leaven_bf16": 0.999}
OVERLAP = 0.95
_TEXTS_PER_FULL_SPLIT = 8
"""Tokens of all pairs of many queries take long: they are measured on every eighth text, as are instances beside them."""
TOKEN_BARS = {"one query": 1.05, "top 2 %": 1.2}


# ---- the same model and texts for everyone ----


def prepare(case: Case, folder: Path) -> None:
    """Write model, tokenizer and token ids."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=case.vocab, hidden_size=case.width, intermediate_size=case.ffn, num_hidden_layers=case.layers,
        num_attention_heads=max(1, case.width // 64), max_position_embeddings=8192, tie_word_embeddings=False,
    )  # fmt: skip
    model, draw = transformers.LlamaForCausalLM(config), np.random.default_rng(0)
    train, query, second = (texts(case, n, draw) for n in (case.texts, case.queries, case.queries))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(20):
        batch = torch.from_numpy(train[draw.integers(len(train), size=16)])
        optimizer.zero_grad()
        model(batch, labels=batch).loss.backward()
        optimizer.step()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"t{k}": k for k in range(case.vocab)}, unk_token="t0"))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="t0", pad_token="t1", bos_token="t2", eos_token="t3"
    ).save_pretrained(folder)
    np.savez(folder / "data.npz", train=train, query=query, second=second)


def texts(case: Case, n: int, draw: np.random.Generator) -> np.ndarray:
    """Return ids [n, positions + 1]: eight topics, each with its own successor rule and its own words."""
    result = np.zeros((n, case.positions + 1), np.int64)
    for row in result:
        topic = int(draw.integers(8))
        row[0] = draw.integers(case.vocab)
        for t in range(1, len(row)):
            follows = draw.random() < 0.7
            low = topic * case.vocab // 10
            row[t] = (row[t - 1] * 3 + 1 + topic) % case.vocab if follows else draw.integers(low, low + case.vocab // 5)
    return result


# ---- one run in a process of its own ----


def worker(case: Case, system: str, folder: Path, out: Path, threads: int) -> dict[str, Any]:
    """Run one system once; write its scores and return what it took."""
    import torch
    from attribution_peers import Clock, run_bergson, run_kronfluence, run_leaven

    torch.set_num_threads(threads)
    if system == "floor":
        return {"gflops": {dtype: rate(dtype) for dtype in ("fp32", "bf16")}}
    if system == "tokens":
        return token_costs(case, folder)
    name, _, variant = system.partition("_")
    dtype, clock = "bf16" if variant else "fp32", Clock()
    if name == "kronfluence":
        scores = run_kronfluence(folder, case.modules, dtype, clock, "smart" if variant == "smart" else "all")
    else:
        scores = {"leaven": run_leaven, "bergson": run_bergson}[name](folder, case.modules, dtype, clock)
    clock.running = False
    np.save(out, scores)
    return {"phases": clock.phases, "peak_mib": clock.peak, "added_mib": clock.peak - clock.begun, "disk_bytes": clock.disk}


def rate(dtype: str) -> float:
    """Return GFLOP/s of a large product, by the fastest routine at hand."""
    import torch

    from leaven.attribution.dense import Constant

    x = torch.randn(4096, 1024, dtype=torch.float32 if dtype == "fp32" else torch.bfloat16)
    w = torch.randn(1024, 1024, dtype=x.dtype)
    laid_out, best = Constant(w), float("inf")
    for _ in range(6):
        for product in (lambda: x @ w, lambda: laid_out.after(x)):
            begin = time.process_time()
            product()
            best = min(best, time.process_time() - begin)
    return 2 * 4096 * 1024**2 / best / 1e9


def token_costs(case: Case, folder: Path) -> dict[str, Any]:
    """Return CPU seconds of the scoring pass at each level, for an aggregated query and for single ones."""
    from attribution_peers import BATCH, data, texts_of, tracked_of

    from leaven.attribution.factors import Damping, fit_factors
    from leaven.attribution.pairs import pairs
    from leaven.attribution.queries import Query, query_gradients, single_queries
    from leaven.attribution.scores import ekfac_targets, text_scores

    train, query, _ = (texts_of(x, n) for x, n in zip(data(folder), ("t", "q", "s"), strict=True))
    tracked, tokens = tracked_of(folder, case.modules, "fp32"), BATCH * case.positions
    factors = fit_factors(tracked, train[: 2 * BATCH], fisher="empirical", batch_tokens=tokens)
    asked = {1: [Query("all", tuple(query))], case.queries: single_queries(query)}
    keep = max(1, round(0.01 * len(train)))
    few = train[::_TEXTS_PER_FULL_SPLIT]
    costs: dict[str, float] = {}
    for n, queries in asked.items():
        targets = ekfac_targets([q.name for q in queries], query_gradients(tracked, queries), factors, Damping())
        runs: dict[str, Any] = {"instances": lambda t=targets: text_scores(tracked, train, t, batch_tokens=tokens)}
        if n == 1:
            runs["tokens of all pairs"] = lambda t=targets: pairs(tracked, train, t, batch_tokens=tokens)
        else:
            runs["tokens of the top 2 %"] = lambda t=targets: pairs(tracked, train, t, keep=keep, batch_tokens=tokens)
            runs["instances, an eighth"] = lambda t=targets: text_scores(tracked, few, t, batch_tokens=tokens)
            runs["tokens of all pairs, an eighth"] = lambda t=targets: pairs(tracked, few, t, batch_tokens=tokens)
        for what, run in runs.items():
            begin = time.process_time()
            run()
            costs[f"{n}: {what}"] = time.process_time() - begin
    return {"costs": costs, "keep": keep}


# ---- rounds ----


def start(case: Case, system: str, folder: Path, out: Path, threads: int) -> dict[str, Any]:
    """Run `worker` in a fresh process."""
    command = [sys.executable, __file__, "--worker", system, "--case", json.dumps(asdict(case)), "--folder", str(folder)]
    command += ["--scores", str(out), "--threads", str(threads)]
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    environment = os.environ | quiet | {"OMP_NUM_THREADS": str(threads), "HF_HOME": str(folder / "hf"), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=folder)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(case: Case, rounds: int, threads: int, kept: dict[str, Any], save: Any) -> None:
    """Add the runs that are missing to `kept` ({system: [run, ...]}); agreement is computed in every round."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(case, folder)
        for number in range(rounds):
            systems = [s for s in (*case.systems, "floor") if len(kept.get(s, [])) <= number]
            random.Random(number).shuffle(systems)
            for system in systems:
                run = start(case, system, folder, folder / f"{system}.npy", threads)
                print(f"  {case.name} round {number + 1}: {system} {run.get('error', '')}", file=sys.stderr)
                if number == 0 and (folder / f"{system}.npy").is_file():
                    run["scores"] = np.load(folder / f"{system}.npy").tolist()
                kept.setdefault(system, []).append(run)
                save()


def agreement(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Return mean Spearman correlation over queries and mean overlap of the ten highest."""
    from scipy.stats import spearmanr

    tops = [np.argsort(-x, axis=1)[:, :10] for x in (a, b)]
    return {
        "spearman": float(np.mean([spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)])),
        "top10": float(np.mean([len(np.intersect1d(x, y)) / 10 for x, y in zip(*tops, strict=True)])),
    }


def floors(case: Case, gflops: float, fp32: float) -> dict[str, float]:
    """Return seconds of each phase's products: one pass over the model whose way back ends at the lowest tracked layer,
    half of each covariance, tokens rotated; eigenvectors are fp32 in every case and take what 10 n^3 operations do."""
    d, f, tokens, asked = case.width, case.ffn, case.texts * case.positions, case.queries * case.positions
    weights = case.layers * (4 * d * d + 3 * d * f) + case.vocab * d
    back = weights - (3 * d * d if case.modules == "linear" else 4 * d * d + 2 * d * f)  # no gradient of the lowest inputs
    tracked = case.layers * (3 * d * f + (4 * d * d if case.modules == "linear" else 0))
    inner = case.layers * (d * d + f * f + (2 * d * d if case.modules == "linear" else 0))  # one per distinct input
    outer = case.layers * (2 * f * f + d * d + (4 * d * d if case.modules == "linear" else 0))
    cubes = case.layers * (3 * f**3 + (2 + (6 if case.modules == "linear" else 0)) * d**3)
    rotate = 2 * (inner + outer) + 2 * tracked
    counts = {
        "covariances": tokens * (2 * weights + 2 * back + inner + outer),
        "eigenvectors": 10 * cubes * gflops / fp32,
        "rows": tokens * rotate,
        "queries": asked * (2 * weights + 2 * back + rotate),
        "scores": 2 * case.queries * case.texts * tracked,
    }
    return {phase: flops / gflops / 1e9 for phase, flops in counts.items()}


def summarise(case: Case, kept: dict[str, Any]) -> dict[str, Any]:
    """Return medians over rounds."""
    rates = {dtype: statistics.median(r["gflops"][dtype] for r in kept["floor"] if "gflops" in r) for dtype in ("fp32", "bf16")}
    result: dict[str, Any] = {"case": asdict(case), "gflops": rates, "systems": {}}
    reference = next((np.array(r["scores"]) for r in kept.get("kronfluence", []) if "scores" in r), None)
    for system, runs in kept.items():
        good = [r for r in runs if "phases" in r]
        if system == "tokens":
            result["tokens"] = token_summary([r for r in runs if "costs" in r])
        if system in ("floor", "tokens"):
            continue
        if not good:
            result["systems"][system] = {"errors": [r["error"] for r in runs if "error" in r]}
            continue
        row: dict[str, Any] = {"rounds": len(good), "phases": {}}
        for kind in ("cpu", "wall"):
            for phase in good[0]["phases"]:
                each = [next(p[kind] for p in r["phases"] if p["name"] == phase["name"]) for r in good]
                row["phases"].setdefault(phase["name"], {})[kind] = statistics.median(each)
            totals = [sum(p[kind] for p in r["phases"] if not p["name"].startswith("second")) for r in good]
            row[f"total_{kind}"], row[f"range_{kind}"] = statistics.median(totals), [min(totals), max(totals)]
            later = [sum(p[kind] for p in r["phases"] if is_second(system, p["name"])) for r in good]
            row[f"second_{kind}"] = statistics.median(later)
        for what in ("peak_mib", "added_mib", "disk_bytes"):
            row[what] = statistics.median(r[what] for r in good)
        if reference is not None:
            row["agreement"] = agreement(reference, np.array(next(r["scores"] for r in good if "scores" in r)))
        if system.startswith("leaven"):
            row["floor"] = floors(case, rates["bf16" if system.endswith("bf16") else "fp32"], rates["fp32"])
        result["systems"][system] = row
    return result


def is_second(system: str, phase: str) -> bool:
    """Say whether a phase is what a second query set takes: peers run the training texts again."""
    return phase.startswith("second") if system.startswith("leaven") else phase in ("queries", "scores", "queries and scores")


def token_summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians, and ratios to the cost of instances with the same queries, formed within each round."""
    names = list(runs[0]["costs"])
    ratios = {}
    for name in names:
        base = f"{name.split(':')[0]}: instances" + (", an eighth" if name.endswith("an eighth") else "")
        ratios[name] = statistics.median(r["costs"][name] / r["costs"][base] for r in runs)
    costs = {n: statistics.median(r["costs"][n] for r in runs) for n in names}
    return {"rounds": len(runs), "keep": runs[0]["keep"], "cpu": costs, "times_instances": ratios}


def judge(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every bar with what was reached."""
    bars = []
    for case, what, ours, peer, wanted in BARS:
        systems = results.get(case, {}).get("systems", {})
        mine, theirs = (systems.get(n, {}).get(f"{what}_cpu") for n in (ours, peer))
        if mine and theirs:
            bars.append(bar(f"{case}: {what} of {ours} against {peer}", wanted, theirs / mine, theirs / mine >= wanted))
    for case in ("mlp", "linear"):
        for system, row in results.get(case, {}).get("systems", {}).items():
            if system in AGREEMENT and "agreement" in row:
                for what, wanted in (("spearman", AGREEMENT[system]), ("top10", OVERLAP)):
                    found = row["agreement"][what]
                    bars.append(bar(f"{case}: {what} of {system} with kronfluence fp32", wanted, found, found >= wanted))
        systems = results.get(case, {}).get("systems", {})
        for suffix in ("", "_bf16"):
            mine, theirs = (systems.get(n + suffix, {}).get("peak_mib") for n in ("leaven", "kronfluence"))
            if mine and theirs:
                what = f"{case}: peak anonymous memory of leaven{suffix} / kronfluence{suffix}"
                bars.append(bar(what, 1.0, mine / theirs, mine <= theirs))
    found = results.get("tokens", {}).get("tokens", {}).get("times_instances", {})
    n = CASES["tokens"].queries
    for name, key in (("one query", "1: tokens of all pairs"), ("top 2 %", f"{n}: tokens of the top 2 %")):
        if key in found:
            bars.append(bar(f"tokens, {key} / instances", TOKEN_BARS[name], found[key], found[key] <= TOKEN_BARS[name]))
    return bars


def bar(what: str, wanted: float, reached: float, holds: bool) -> dict[str, Any]:
    """Return one bar."""
    return {"what": what, "wanted": wanted, "reached": reached, "holds": bool(holds)}


def lines(results: dict[str, Any], bars: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the report as text."""
    for name, result in results.items():
        rates = result["gflops"]
        yield f"\n{name}: products at {rates['fp32']:.0f} (fp32) and {rates['bf16']:.0f} (bf16) GFLOP/s; medians, CPU s (wall s)"
        for system, row in result["systems"].items():
            if "total_cpu" not in row:
                yield f"  {system:18} failed: {row['errors'][0] if row['errors'] else 'no run'}"
                continue
            agreed = row.get("agreement", {})
            yield (
                f"  {system:18} {row['total_cpu']:6.2f} ({row['total_wall']:.2f})  "
                f"second set {row['second_cpu']:5.2f} ({row['second_wall']:.2f})  "
                f"peak {row['peak_mib']:5.0f} MiB (+{row['added_mib']:.0f})  disk {row['disk_bytes'] / 1e6:4.0f} MB  "
                f"Spearman {agreed.get('spearman', float('nan')):.5f}  top-10 {agreed.get('top10', float('nan')):.3f}  "
                f"{row['rounds']} rounds"
            )
            floor = row.get("floor", {})
            yield "    " + ", ".join(
                f"{phase} {seconds['cpu']:.2f}" + (f" (floor {floor[phase]:.2f})" if phase in floor else "")
                for phase, seconds in row["phases"].items()
            )
            if floor:
                yield f"    floor {sum(floor.values()):.2f}: {row['total_cpu'] / sum(floor.values()):.2f}x"
        if "tokens" in result:
            for what, ratio in result["tokens"]["times_instances"].items():
                yield f"  {what:30} {result['tokens']['cpu'][what]:6.2f} CPU s  {ratio:.2f}x instances"
    for each in bars:
        yield f"{'holds ' if each['holds'] else 'MISSED'} {each['what']}: {each['reached']:.4g} (wanted {each['wanted']})"


def machine(threads: int) -> dict[str, Any]:
    """Return what the figures depend on."""
    import importlib.metadata as packages

    names = [x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
    known = {}
    for package in ("torch", "transformers", "kronfluence", "bergson"):
        try:
            known[package] = packages.version(package)
        except packages.PackageNotFoundError:
            known[package] = "absent"
    return {
        "processor": names[0] if names else platform.processor(), "cpus": os.cpu_count(), "threads": threads,
        "python": platform.python_version(), "load_before": os.getloadavg()[0], **known,
    }  # fmt: skip


def main() -> None:
    """Parse arguments, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model, 1 round, leaven alone; writes no file")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e9, help="start no run after so long; the same command goes on")
    parser.add_argument("--out", type=Path, default=RESULTS / "attribution.json")
    for name, kind in (("--worker", str), ("--case", str), ("--folder", Path), ("--scores", Path)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        described = json.loads(options.case)
        case = Case(**{**described, "systems": tuple(described["systems"])})
        print(json.dumps(worker(case, options.worker, options.folder, options.scores, options.threads)))
        return
    cases = [CASES[name] for name in options.cases.split(",")]
    if options.quick:
        small = {"width": 64, "ffn": 128, "vocab": 256, "positions": 32, "texts": 48, "queries": 4}
        cases = [replace(c, systems=tuple(s for s in c.systems if s not in PEERS), **small) for c in cases]
    raw_file = options.out.with_suffix(".runs.json")
    raw = json.loads(raw_file.read_text()) if raw_file.is_file() and not options.quick else {}
    facts, results = machine(options.threads), {}
    deadline = time.monotonic() + 60 * options.minutes

    def save() -> None:
        if not options.quick:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            raw_file.write_text(json.dumps(raw) + "\n")
        if time.monotonic() > deadline:
            raise TimeoutError

    for case in cases:
        try:
            measure(case, 1 if options.quick else options.rounds, options.threads, raw.setdefault(case.name, {}), save)
        except TimeoutError:
            print("out of time; the same command goes on", file=sys.stderr)
            break
    for name, kept in raw.items():
        if kept.get("floor"):
            results[name] = summarise(next((c for c in cases if c.name == name), CASES[name]), kept)
    bars = judge(results)
    print("\n".join(lines(results, bars)))
    if not options.quick:
        options.out.write_text(json.dumps({"machine": facts, "rounds": options.rounds, "cases": results, "bars": bars}, indent=1) + "\n")


if __name__ == "__main__":
    main()
