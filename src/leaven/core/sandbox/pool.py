"""A stream of jobs -> a stream of results in the same order: batches, reruns, retries and the verdict of each end.

Programs the allow-list proves harmless share a child, 16 at a time; whatever ends oddly there (and whatever the list
refuses) runs again alone, and only that verdict counts. One thread per worker does blocking I/O; nothing here touches
torch. Not covered: what a child may do (inside/cage.py), how tests are judged (inside/judge.py).
"""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from leaven.core.sandbox import toolchains
from leaven.core.sandbox.jobs import Job, Result
from leaven.core.sandbox.tiers import start_worker
from leaven.core.sandbox.worker import Outcome, Worker, WorkerLost
from leaven.errors import Interrupted

SHARED = 16
BESIDE, LOST = 2, 3  # attempts: tests next to the program, after a vanished worker
_WINDOW = 4096
_FINAL_IN_SHARED = {"pass", "fail", "syntax"}


def _silent(done: float, total: float, note: str = "") -> None:
    """Report nothing."""


def _never() -> bool:
    return False


def execute(
    jobs: Iterable[Job],
    *,
    workers: int = 0,
    tier: str = "auto",
    strict: bool = True,
    allow_unsafe: bool = False,
    share: int = SHARED,
    stop: Callable[[], bool] = _never,
    progress: Callable[..., None] = _silent,
) -> Iterator[Result]:
    """Run untrusted programs and yield one result per job, in job order.

    Args:
        jobs: consumed lazily, at most a few thousand ahead of the results.
        workers: worker processes; 0 means one per core.
        tier: A, B, C, D or auto (the strongest this machine offers).
        strict: expected values stay outside the program's process; off, tests run next to the program.
        allow_unsafe: at tier D also run programs the allow-list cannot prove harmless.
        share: how many allow-listed programs share a child; 1 gives every program its own.
        stop: polled; turning true raises Interrupted after ending all children.
        progress: called as (done, total or 0, note).

    Raises:
        RefusedError: the tier asked for is not available here.
        Interrupted: `stop` turned true.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    total = len(jobs) if hasattr(jobs, "__len__") else 0
    source, given, taken = iter(jobs), 0, 0
    pool, exhausted = _Pool(start_worker(tier), workers or cores, strict, allow_unsafe, share), False
    try:
        while True:
            while not exhausted and given - taken < _WINDOW:
                job = next(source, None)
                if job is None:
                    exhausted = True
                    break
                pool.put(given, _checked(job))
                given += 1
            if taken == given:
                return
            result = pool.take(taken, stop)
            taken += 1
            progress(taken, total)
            yield result
    finally:
        pool.close()


class _Pool:
    """Worker threads around one queue of (index, job, attempt) and one table of results."""

    def __init__(self, first: Worker, count: int, strict: bool, unsafe: bool, share: int) -> None:
        self.tier, self.count, self.strict, self.unsafe, self.share = first.tier, count, strict, unsafe, share
        self._lone = "shared" if first.tier == "D" and not unsafe else "alone"  # how a program runs by itself
        self._fresh: deque[tuple[int, Job]] = deque()
        self._again: deque[tuple[int, Job, int, str, bool]] = deque()
        self._results: dict[int, Result] = {}
        self._lock = threading.Condition()
        self._closed = False
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._workers: set[Worker] = {first}
        self._spare: Worker | None = first

    def put(self, index: int, job: Job) -> None:
        """Queue a job; start a thread when there is work for one more."""
        with self._lock:
            self._fresh.append((index, job))
            if len(self._threads) < self.count and len(self._fresh) > self.share * len(self._threads):
                thread = threading.Thread(target=self._work, daemon=True, name=f"sandbox-{len(self._threads)}")
                self._threads.append(thread)
                thread.start()
            self._lock.notify_all()

    def take(self, index: int, stop: Callable[[], bool]) -> Result:
        """Return the result of job `index`, waiting for it."""
        with self._lock:
            while index not in self._results:
                if self._failure is not None:
                    raise self._failure
                if stop():
                    raise Interrupted("stopped while programs were running; results already given are complete")
                self._lock.wait(0.2)
            return self._results.pop(index)

    def close(self) -> None:
        """End all workers and what they run, at once."""
        with self._lock:
            self._closed = True
            for worker in self._workers:
                worker.hang_up()
            self._lock.notify_all()
        for thread in self._threads:
            thread.join()
        if self._spare is not None:
            self._end(self._spare)

    # -- worker threads -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        worker = None
        try:
            while (batch := self._next()) is not None:
                worker = worker or self._start()
                entries, mode, strict = batch
                if mode == "foreign" and self._cannot_run(worker, entries):
                    continue
                try:
                    outcomes = worker.run([e[1] for e in entries], mode, strict=strict, unsafe=self.unsafe)
                except WorkerLost as problem:
                    worker = self._end(worker)
                    self._after_loss(entries, mode, str(problem))
                    continue
                if any(o.ended.startswith("judge") for o in outcomes):
                    worker = self._end(worker)
                self._settle(entries, mode, outcomes)
        except BaseException as problem:
            with self._lock:
                self._failure = problem
                self._lock.notify_all()
        finally:
            if worker is not None:
                self._end(worker)

    def _cannot_run(self, worker: Worker, entries: list[tuple[int, Job, int]]) -> bool:
        """Give a foreign job its result where this tier or this machine does not run its language."""
        ((index, job, _),) = entries
        if self._lone == "shared":
            result = Result(job.id, "harness_error", f"refused at tier D: {job.language} (ask for unsafe execution to run it anyway)")
        elif why := toolchains.unmeasurable(worker, job.language):
            result = Result(job.id, "not_measured", why)
        else:
            return False
        with self._lock:
            self._results[index] = dataclasses.replace(result, tier=self.tier)
            self._lock.notify_all()
        return True

    def _start(self) -> Worker:
        with self._lock:
            worker, self._spare = self._spare, None
        if worker is not None:
            return worker
        worker = Worker(self.tier)
        with self._lock:
            self._workers.add(worker)
            if self._closed:
                worker.hang_up()
        return worker

    def _end(self, worker: Worker) -> None:
        with self._lock:
            self._workers.discard(worker)
        worker.close()

    def _next(self) -> tuple[list[tuple[int, Job, int]], str, bool] | None:
        """Return (entries, mode, strict) of the next batch: reruns first, else fresh jobs with equal limits."""
        with self._lock:
            while not self._closed:
                if self._again:
                    *entry, mode, strict = self._again.popleft()
                    return [tuple(entry)], mode, strict
                if self._fresh:
                    return self._fresh_batch()
                self._lock.wait()
            return None

    def _fresh_batch(self) -> tuple[list[tuple[int, Job, int]], str, bool]:
        index, job = self._fresh.popleft()
        if job.language != "python":
            return [(index, job, 0)], "foreign", self.strict
        if _is_script(job):
            return [(index, job, 0)], "script", self.strict
        if self.share == 1 or job.stdin is not None:
            return [(index, job, 0)], self._lone, self.strict
        entries = [(index, job, 0)]
        size = max(1, min(self.share, (len(self._fresh) + self.count) // self.count))
        while self._fresh and len(entries) < size:
            _, other = self._fresh[0]
            if _is_script(other) or other.stdin is not None or other.language != "python" or other.limits != job.limits:
                break
            entries.append((*self._fresh.popleft(), 0))
        return entries, "shared", self.strict

    def _settle(self, entries: list[tuple[int, Job, int]], mode: str, outcomes: list[Outcome]) -> None:
        """Turn final outcomes into results; queue the others again."""
        with self._lock:
            for (index, job, attempt), outcome in zip(entries, outcomes, strict=True):
                refused_for_good = outcome.status == "refused" and self._lone == "shared"
                if outcome.status == "skipped":
                    self._fresh.appendleft((index, job))
                elif outcome.status == "unsendable" and self.strict and attempt < BESIDE:
                    self._again.append((index, job, BESIDE, self._lone, False))
                elif (
                    mode == "shared"
                    and attempt == 0
                    and outcome.status not in _FINAL_IN_SHARED
                    and not refused_for_good
                ):
                    self._again.append((index, job, 1, self._lone, self.strict))
                else:
                    self._results[index] = self._result(job, outcome, mode, attempt)
            self._lock.notify_all()

    def _after_loss(self, entries: list[tuple[int, Job, int]], mode: str, why: str) -> None:
        """A worker vanished under its batch: every job once more, alone; twice lost is the harness's own error."""
        with self._lock:
            for index, job, attempt in entries:
                if attempt == LOST:
                    self._results[index] = Result(
                        job.id, "harness_error", f"the worker was lost twice: {why}", tier=self.tier
                    )
                else:
                    self._again.append((index, job, LOST, mode if mode in ("script", "foreign") else self._lone, self.strict))
            self._lock.notify_all()

    def _result(self, job: Job, outcome: Outcome, mode: str, attempt: int) -> Result:
        status, detail = toolchains.verdict(job, outcome, same_output) if mode == "foreign" else verdict(job, outcome, mode)
        if attempt == BESIDE and self.strict:
            detail = f"checked in the program's own process. {detail}".strip()
        return Result(job.id, status, detail, outcome.cpu_s, outcome.wall_s, self.tier, outcome.printed[-2000:])


def _checked(job: Job) -> Job:
    """Return the job with the usual name of its language; raises RefusedError for one that is not run."""
    if job.language == "python":
        return job
    return dataclasses.replace(job, language=toolchains.language_of(job.language, f"job {job.id!r}"))


def _is_script(job: Job) -> bool:
    return not job.tests


def verdict(job: Job, outcome: Outcome, mode: str) -> tuple[str, str]:
    """Return (status, detail): limits broken first, then the judge's word, then how the process ended."""
    limits, ended = job.limits, outcome.ended
    texts = {
        "timeout_cpu": f"used {outcome.cpu_s:.2f} s of CPU, limit {limits.cpu_s} s",
        "timeout_wall": f"ran {outcome.wall_s:.2f} s, limit {limits.wall_s} s",
        "output_limit": f"printed more than {limits.output_bytes} bytes",
    }
    if ended in texts:
        return ended, texts[ended]
    if ended == "closed":
        return "error", "the program closed the channel its answers go through"
    if ended == "judge_cpu":
        return "timeout_cpu", "comparing the returned values took too long"
    if ended == "judge_gone":
        return "harness_error", "the judge process ended"
    if outcome.status == "refused":
        return "harness_error", f"refused at tier D: {outcome.detail} (ask for unsafe execution to run it anyway)"
    if outcome.status in ("syntax", "forged", "tests_died"):
        return "error", outcome.detail
    if outcome.status == "unsendable":
        return "harness_error", f"the tests cannot be judged: {outcome.detail}"
    if outcome.status and outcome.status != "lost":
        return outcome.status, outcome.detail
    return _of_process(job, outcome, mode)


def _of_process(job: Job, outcome: Outcome, mode: str) -> tuple[str, str]:
    """Verdict of a script, or of a program whose process ended before its tests did."""
    code = os.waitstatus_to_exitcode(outcome.wait_status)
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        if name in ("SIGXCPU", "SIGKILL") and outcome.cpu_s >= 0.9 * job.limits.cpu_s:
            return "timeout_cpu", f"used {outcome.cpu_s:.2f} s of CPU, limit {job.limits.cpu_s} s"
        return "crash", f"ended by {name}"
    if mode != "script":
        return "error", f"the program ended its process (exit code {code}) before its tests were through"
    if code == 76 and outcome.errors.startswith("the program holds "):
        return (
            "harness_error",
            f"refused at tier D: {outcome.errors.strip()} (ask for unsafe execution to run it anyway)",
        )
    if code == 77 and outcome.errors.endswith("MemoryError\n"):
        return "memory", "MemoryError"
    if code:
        lines = outcome.errors.rstrip().splitlines()
        return "error", f"exit code {code}" + (f": {lines[-1][:300]}" if lines else "")
    if job.expected_stdout is not None and not same_output(outcome.printed, job.expected_stdout):
        return "fail", "the output differs from the expected one"
    return "pass", ""


def same_output(found: str, expected: str) -> bool:
    """Return whether two outputs agree line by line, trailing blanks and trailing empty lines aside."""
    return [line.rstrip() for line in found.rstrip().splitlines()] == [
        line.rstrip() for line in expected.rstrip().splitlines()
    ]
