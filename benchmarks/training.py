"""Tokens per second of leaven's training loop against TRL, Hugging Face's Trainer and the arithmetic floor.

    python benchmarks/training.py            all cases, 5 rounds; writes benchmarks/results/training.json
    python benchmarks/training.py --quick    the 1m model, 3 systems, 2 rounds, few steps; prints, writes nothing

Every system gets the same initial weights (a Llama folder), the same rows in the same order, AdamW with the same
settings, and must show leaven's loss curve, or its figures are marked as disagreeing. Each (system, round) runs in its
own fresh process, in an order shuffled per round. Speed is real tokens (padding excluded) of the timed steps over their
time, wall and CPU. The first WARM steps (compilation, caches) are excluded; what compiling costs is printed with the
number of steps after which it has paid. The floor is the rate of this machine's matrix products over the model's own
shapes divided by 6 FLOPs per weight and token. TRL as shipped recomputes activations (gradient_checkpointing);
`trl_fast` switches that off, and the bars are judged against the faster of the two.
Not covered: GPUs, several processes.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WARM = 3
STAGE = "bench"
OPTIMISER = {"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0}
TOLERANCE = {"fp32": 5e-3, "bf16": 5e-2}


@dataclass(frozen=True)
class Case:
    """One model, data shape and dtype; rows are `tokens` long, or (`sft`) 24..tokens with an unlearned prompt."""

    name: str
    width: int
    layers: int
    heads: int
    ffn: int
    vocab: int
    batch: int
    tokens: int
    steps: int
    dtype: str = "bf16"
    sft: bool = False


CASES = {
    c.name: c
    for c in (
        Case("1m", 128, 4, 4, 384, 2048, 16, 256, 14),
        Case("10m", 384, 6, 6, 1024, 4096, 8, 256, 9),
        Case("1m-sft", 128, 4, 4, 384, 2048, 16, 256, 20, sft=True),
        Case("1m-fp32", 128, 4, 4, 384, 2048, 16, 256, 14, dtype="fp32"),
    )
}
SYSTEMS = ("leaven", "leaven_compile", "hf", "hf_compile", "trl", "trl_fast", "trl_compile")
BARS = (
    ("1m", "leaven", ("trl", "trl_fast"), 2.0),
    ("1m", "leaven", ("hf_compile",), 1.3),
    ("10m", "leaven", ("trl", "trl_fast"), 1.4),
    ("1m-sft", "leaven", ("trl", "trl_fast"), 2.5),
)


# ---- the same data for everyone ----


def rows_of(case: Case) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (ids, learn) of every row in training order: noisy walks over the vocabulary, which can be learned."""
    draw = np.random.default_rng(7)
    result = []
    for _ in range(case.batch * case.steps):
        n = int(draw.integers(24, case.tokens + 1)) if case.sft else case.tokens
        ids = (draw.integers(case.vocab) + np.cumsum(draw.integers(1, 4, n))) % (
            case.vocab - 6
        )  # six special tokens at the end
        learn = np.ones(n, np.float32)
        learn[: int(draw.integers(1, n // 2)) if case.sft else 1] = 0.0
        result.append((ids.astype(np.int32), learn))
    return result


def prepare(case: Case, folder: Path) -> None:
    """Write tokenizer, initial model, token arrays and order table of a case."""
    import polars as pl

    from leaven.core.step import StepContext
    from leaven.core.tables import LENGTHS, ORDER, SEGMENTS, write_examples, write_table
    from leaven.core.types import Example
    from leaven.data.tokenizer import train_tokenizer
    from leaven.lm.checkpoints import copy_tokenizer, save_tiny
    from leaven.lm.tiny_model import TinyConfig, init_tiny

    for name in ("examples", "tokenizer", "tokens", "order"):
        (folder / name).mkdir(parents=True)
    words = " ".join(f"w{i}" for i in range(2 * case.vocab))
    write_examples(folder / "examples" / "examples.parquet", [Example(id="all", source="bench", text=words)])
    spec = {"kind": "word", "vocab_size": case.vocab, "formats": None}
    train_tokenizer(spec, {"bench": folder / "examples"}, folder / "tokenizer", StepContext())
    config = TinyConfig.from_spec(model_spec(case), case.vocab)
    model = init_tiny(config, seed=0)
    save_tiny(folder / "init", model, dict(model.named_parameters()))
    copy_tokenizer(folder / "tokenizer", folder / "init")

    rows = rows_of(case)
    lengths = np.array([len(ids) for ids, _ in rows])
    learned = np.array([int((learn > 0).sum()) for _, learn in rows])
    n, names = len(rows), [f"r{i:05d}" for i in range(len(rows))]
    zeros = np.zeros(n, np.int32)
    common = {
        "source": ["bench"] * n,
        "example": names,
        "format": ["raw"] * n,
        "n_tokens": lengths,
        "n_learned_tokens": learned,
    }
    table = {**common, "n_thought_tokens": zeros, "n_code_tokens": zeros, "offset": np.cumsum(lengths) - lengths}
    write_table(folder / "tokens" / "lengths.parquet", pl.DataFrame(table).select(list(LENGTHS)).cast(LENGTHS), LENGTHS)
    write_table(folder / "tokens" / "segments.parquet", pl.DataFrame(schema=SEGMENTS), SEGMENTS)
    np.save(folder / "tokens" / "ids.npy", np.concatenate([ids for ids, _ in rows]))
    np.save(folder / "tokens" / "learn.npy", np.concatenate([learn for _, learn in rows]))
    np.save(folder / "tokens" / "kind.npy", np.zeros(lengths.sum(), np.int8))
    slot = np.arange(n)
    order = {
        **common,
        "stage": [STAGE] * n,
        "step": slot // case.batch,
        "slot": slot % case.batch,
        "pack": slot % case.batch,
        "weight": np.ones(n),
        "start_token": zeros,
    }
    write_table(folder / "order" / "order.parquet", pl.DataFrame(order).select(list(ORDER)).cast(ORDER), ORDER)


def model_spec(case: Case) -> dict[str, Any]:
    """Return the `model` section of a case."""
    return {
        "kind": "tiny",
        "width": case.width,
        "layers": case.layers,
        "heads": case.heads,
        "ffn": case.ffn,
        "max_tokens": case.tokens,
    }


# ---- the systems: each calls `tick` after every step and returns its losses ----

Tick = Callable[[], None]


def run_leaven(case: Case, folder: Path, threads: int, compiled: bool, tick: Tick) -> list[float]:
    """Train with leaven's own stage."""
    import polars as pl

    from leaven.core.step import Resources, StepContext
    from leaven.lm.loop import train

    resources = Resources(threads=threads, compile="on" if compiled else "off", checkpoint_seconds=1e9)
    spec = {
        "model": model_spec(case),
        "train": {**OPTIMISER, "schedule": "constant", "dtype": case.dtype},
        "stage": STAGE,
        "seed": 0,
        "reset_optimizer": True,
    }
    inputs = {
        "order": folder / "order",
        "tokenizer": folder / "tokenizer",
        "bench|raw": folder / "tokens",
        "init": folder / "init",
    }
    with tempfile.TemporaryDirectory() as out:
        train(spec, inputs, Path(out), StepContext(runtime=resources, progress=lambda *_: tick()))
        return pl.read_parquet(Path(out) / "curve.parquet")["loss"].to_list()


def trainer_arguments(case: Case, out: str, compiled: bool) -> dict[str, Any]:
    """Return the settings that make a Trainer do the same steps."""
    return {
        "output_dir": out,
        "per_device_train_batch_size": case.batch,
        "max_steps": case.steps,
        "learning_rate": OPTIMISER["lr"],
        "lr_scheduler_type": "constant",
        "weight_decay": OPTIMISER["weight_decay"],
        "adam_beta1": OPTIMISER["betas"][0],
        "adam_beta2": OPTIMISER["betas"][1],
        "adam_epsilon": OPTIMISER["eps"],
        "max_grad_norm": OPTIMISER["clip"],
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": case.dtype == "bf16",
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
        "torch_compile": compiled,
        "dataloader_pin_memory": False,
    }


def run_peer(case: Case, folder: Path, system: str, tick: Tick) -> list[float]:
    """Train with Hugging Face's Trainer or TRL's SFTTrainer."""
    import datasets
    import torch
    import transformers

    class Ticker(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            tick()

    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "init", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "init")
    rows = [
        {"input_ids": ids.tolist(), "labels": np.where(learn > 0, ids, -100).tolist()} for ids, learn in rows_of(case)
    ]
    compiled = system.endswith("_compile")
    with tempfile.TemporaryDirectory() as out:
        settings = trainer_arguments(case, out, compiled)
        data = datasets.Dataset.from_list(rows)
        if system.startswith("hf"):
            collator = transformers.DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)
            trainer = transformers.Trainer(
                model=model,
                args=transformers.TrainingArguments(**settings),
                train_dataset=data,
                data_collator=collator,
                callbacks=[Ticker()],
            )
        else:
            import trl

            recompute = {} if system == "trl" else {"gradient_checkpointing": False}
            trainer = trl.SFTTrainer(
                model=model,
                args=trl.SFTConfig(**settings, **recompute),
                train_dataset=data,
                processing_class=tokenizer,
                callbacks=[Ticker()],
            )
        trainer.train()
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def worker(case: Case, system: str, folder: Path, threads: int) -> dict[str, Any]:
    """Run one system once in this process and return the wall and CPU seconds of every step and its losses."""
    import torch

    torch.set_num_threads(threads)
    wall, cpu = [time.perf_counter()], [time.process_time()]

    def tick() -> None:
        wall.append(time.perf_counter())
        cpu.append(time.process_time())

    if system == "floor":
        return {"gflops": floor_gflops(case)}
    if system.startswith("leaven"):
        losses = run_leaven(case, folder, threads, system.endswith("_compile"), tick)
    else:
        losses = run_peer(case, folder, system, tick)
    return {"wall": np.diff(wall).tolist(), "cpu": np.diff(cpu).tolist(), "losses": losses}


def floor_gflops(case: Case) -> float:
    """Return GFLOP/s of the model's own products, forward and backward, weighted by their share of the work."""
    import torch

    dtype = torch.bfloat16 if case.dtype == "bf16" else torch.float32
    tokens, work, seconds = case.batch * case.tokens, 0.0, 0.0
    shapes = [
        (case.width, 3 * case.width, case.layers),
        (case.width, case.width, case.layers),
        (case.width, case.ffn, 2 * case.layers),
        (case.ffn, case.width, case.layers),
        (case.width, case.vocab, 1),
    ]
    for inner, outer, times in shapes:
        x, w, g = (torch.randn(s, dtype=dtype) for s in ((tokens, inner), (outer, inner), (tokens, outer)))
        best = float("inf")
        for _ in range(8):
            begin = time.perf_counter()
            x @ w.t(), g @ w, g.t() @ x  # noqa: B018
            best = min(best, time.perf_counter() - begin)
        work, seconds = work + times * 6.0 * tokens * inner * outer, seconds + times * best
    return work / seconds / 1e9


# ---- rounds and report ----


def start(case: Case, system: str, folder: Path, threads: int) -> dict[str, Any]:
    """Run `worker` in a fresh process."""
    command = [
        sys.executable,
        __file__,
        "--worker",
        system,
        "--case",
        case.name,
        "--steps",
        str(case.steps),
        "--folder",
        str(folder),
        "--threads",
        str(threads),
    ]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(case: Case, systems: list[str], rounds: int, threads: int) -> dict[str, Any]:
    """Return the raw runs of a case: {system: [run, ...]}."""
    runs: dict[str, Any] = {system: [] for system in [*systems, "floor"]}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(case, folder)
        for number in range(rounds):
            order = [*systems, "floor"]
            random.Random(number).shuffle(order)
            for system in order:
                run = start(case, system, folder, threads)
                runs[system].append(run)
                print(f"  {case.name} round {number + 1}: {system} {run.get('error', '')}", file=sys.stderr)
    return runs


def summarise(case: Case, runs: dict[str, Any]) -> dict[str, Any]:
    """Return medians over rounds: tokens per second, compile cost, agreement of curves, share of the floor."""
    from leaven.lm.tiny_model import TinyConfig

    lengths = [len(ids) for ids, _ in rows_of(case)]
    tokens = [sum(lengths[i : i + case.batch]) for i in range(0, len(lengths), case.batch)]
    flops = TinyConfig.from_spec(model_spec(case), case.vocab).flops_per_token(float(np.mean(lengths)) / 2)
    reference = next((r["losses"] for r in runs.get("leaven", []) if "losses" in r), None)
    gflops = statistics.median(r["gflops"] for r in runs["floor"] if "gflops" in r)
    result: dict[str, Any] = {"floor_gflops": gflops, "floor_tokens_per_s": gflops * 1e9 / flops, "systems": {}}
    for system, found in runs.items():
        good = [r for r in found if "wall" in r]
        if system == "floor" or not good:
            errors = [r["error"] for r in found if "error" in r]
            result["systems"].update({system: {"errors": errors}} if errors else {})
            continue
        rates = [sum(tokens[WARM:]) / sum(r["wall"][WARM:]) for r in good]
        row = {
            "tokens_per_s": statistics.median(rates),
            "lowest": min(rates),
            "highest": max(rates),
            "rounds": len(good),
            "tokens_per_cpu_s": statistics.median(sum(tokens[WARM:]) / sum(r["cpu"][WARM:]) for r in good),
            "step_s": statistics.median(statistics.median(r["wall"][WARM:]) for r in good),
            "warm_up_s": statistics.median(sum(r["wall"][:WARM]) for r in good),
        }
        row["share_of_floor"] = row["tokens_per_s"] / result["floor_tokens_per_s"]
        if reference is not None:
            row["loss_difference"] = max(abs(a - b) for r in good for a, b in zip(r["losses"], reference, strict=True))
            row["agrees"] = row["loss_difference"] <= TOLERANCE[case.dtype]
        result["systems"][system] = row
    for name in ("leaven", "hf", "trl"):
        eager, compiled = (
            result["systems"].get(n, {}) for n in ("trl_fast" if name == "trl" else name, f"{name}_compile")
        )
        if "step_s" in eager and "step_s" in compiled:
            saved = eager["step_s"] - compiled["step_s"]
            compiled["compile_s"] = compiled["warm_up_s"] - eager["warm_up_s"]
            compiled["break_even_steps"] = compiled["compile_s"] / saved if saved > 0 else None
    return result


def judge(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each bar with the measured ratio of leaven (its better form) to the best of the named peers."""
    bars = []
    for case, ours, peers, wanted in BARS:
        systems = results.get(case, {}).get("systems", {})
        mine = [systems[n]["tokens_per_s"] for n in (ours, f"{ours}_compile") if "tokens_per_s" in systems.get(n, {})]
        theirs = [systems[n]["tokens_per_s"] for n in peers if "tokens_per_s" in systems.get(n, {})]
        if mine and theirs:
            eager = systems.get(ours, {}).get("tokens_per_s")
            bars.append(
                {
                    "case": case,
                    "against": " / ".join(peers),
                    "wanted": wanted,
                    "ratio": max(mine) / max(theirs),
                    "ratio_eager": eager / max(theirs) if eager else None,
                    "holds": max(mine) / max(theirs) >= wanted,
                }
            )
    return bars


def lines(results: dict[str, Any], bars: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the report as text."""
    for case, result in results.items():
        yield f"\n{case}: floor {result['floor_tokens_per_s']:,.0f} tokens/s ({result['floor_gflops']:.0f} GFLOP/s)"
        for system, row in result["systems"].items():
            if "tokens_per_s" not in row:
                yield f"  {system:15} failed: {row['errors'][0]}"
                continue
            compiled = ""
            if "compile_s" in row:
                pays = row["break_even_steps"]
                after = f"pays after {pays:,.0f} steps" if pays else "never pays"
                compiled = f"  compiling {row['compile_s']:.1f} s, {after}"
            yield (
                f"  {system:15} {row['tokens_per_s']:9,.0f} tokens/s [{row['lowest']:,.0f}, {row['highest']:,.0f}]  "
                f"{row['tokens_per_cpu_s']:9,.0f} per CPU-s  {row['share_of_floor']:.2f} of floor  loss within "
                f"{row.get('loss_difference', float('nan')):.1e}"
                f"{'' if row.get('agrees', True) else ' DISAGREES'}{compiled}"
            )
    for bar in bars:
        yield (
            f"{'holds ' if bar['holds'] else 'MISSED'} {bar['case']}: {bar['ratio']:.2f}x {bar['against']} "
            f"(wanted {bar['wanted']}x; "
            f"eager {bar['ratio_eager'] or float('nan'):.2f}x)"
        )


def machine(threads: int) -> dict[str, Any]:
    """Return what the figures depend on."""
    import torch
    import transformers
    import trl

    processor = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        names = [
            x.split(":")[1].strip()
            for x in Path("/proc/cpuinfo").read_text().splitlines()
            if x.startswith("model name")
        ]
        processor = names[0] if names else processor
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": processor,
        "cpus": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
        "load_before": load,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def main() -> None:
    """Parse arguments, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1m, the main systems, 2 rounds; writes no file")
    parser.add_argument("--cases", default="1m,10m,1m-sft,1m-fp32")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training.json")
    for name, kind in (("--worker", str), ("--case", str), ("--folder", Path), ("--steps", int)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        case = CASES[options.case]
        case = Case(**{**case.__dict__, "steps": options.steps})
        print(json.dumps(worker(case, options.worker, options.folder, options.threads)))
        return
    cases, systems, rounds = options.cases.split(","), options.systems.split(","), options.rounds
    if options.quick:
        cases, systems, rounds = ["1m"], ["leaven", "hf", "trl_fast"], 2
    facts, results = machine(options.threads), {}
    for name in cases:
        case = CASES[name]
        case = Case(**{**case.__dict__, "steps": 8}) if options.quick else case
        results[name] = summarise(case, measure(case, systems, rounds, options.threads))
    bars = judge(results)
    print("\n".join(lines(results, bars)))
    if not options.quick:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        report = {"machine": facts, "rounds": rounds, "warm_steps": WARM, "cases": results, "bars": bars}
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
