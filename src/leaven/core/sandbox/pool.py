"""A stream of jobs -> a stream of results in the same order: batches, reruns, retries and the verdict of each end.

Programs the allow-list proves harmless share a child, 64 at a time; whatever ends oddly there (and whatever the list
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
from pathlib import Path

from leaven.core.sandbox import toolchains
from leaven.core.sandbox.cache import VerdictCache
from leaven.core.sandbox.jobs import Job, Result
from leaven.core.sandbox.tiers import start_worker
from leaven.core.sandbox.worker import Outcome, Worker, WorkerLost
from leaven.errors import Interrupted

SHARED = 64
_TOGETHER = 12  # programs with a child each that are handed to a worker in one go
_WINDOW = 4096
_FINAL_IN_SHARED = {"pass", "fail", "syntax", "raised"}


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    """One job on its way: how it is to run next. `attempt` counts the odd ends; `lost` that a worker vanished under it."""

    index: int
    job: Job
    mode: str = ""  # shared, alone, quick, script, foreign
    strict: bool = True
    recorded: bool = True
    attempt: int = 0
    beside: bool = False  # strict, but the tests can only be judged next to the program
    lost: bool = False

    def fits(self, other: _Entry) -> bool:
        """Return whether the other may be handed over together with this one."""
        return (
            self.mode == other.mode
            and self.mode in ("shared", "alone", "quick")
            and self.strict == other.strict
            and self.recorded == other.recorded
            and not (self.lost or other.lost)
            and self.job.stdin is None
            and other.job.stdin is None
            and self.job.limits == other.job.limits
        )


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
    cache: Path | str | None = None,
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
        cache: file of verdicts kept by content (made when missing): what it knows is not run, equal jobs run once, and an
            interrupted run goes on where it stopped.
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
    known = None
    try:
        known = _Known(pool, VerdictCache(cache, pool.tier, strict)) if cache is not None else None
        front = known or pool
        while True:
            while not exhausted and given - taken < _WINDOW:
                job = next(source, None)
                if job is None:
                    exhausted = True
                    break
                front.put(given, _checked(job))
                given += 1
            if taken == given:
                return
            result = front.take(taken, stop)
            taken += 1
            progress(taken, total)
            yield result
    finally:
        pool.close()
        if known is not None:
            known.cache.close()


class _Known:
    """A pool with a verdict cache before it; used by one thread."""

    def __init__(self, pool: _Pool, cache: VerdictCache) -> None:
        self.pool, self.cache = pool, cache
        self._found: dict[int, Result] = {}
        self._keys: dict[int, bytes] = {}  # jobs under way
        self._same: dict[int, Job] = {}  # jobs equal to one under way, which comes first
        self._waiting: dict[bytes, int] = {}  # how many of those there are
        self._last: dict[bytes, Result] = {}  # what they wait for

    def put(self, index: int, job: Job) -> None:
        """Take the result from the cache, or run the job, once for all equal ones."""
        key = self.cache.key_of(job)
        if key in self._waiting:
            self._same[index], self._keys[index] = job, key
            self._waiting[key] += 1
        elif (found := self.cache.find(key, job)) is not None:
            self._found[index] = found
        else:
            self._keys[index], self._waiting[key] = key, 0
            self.pool.put(index, job)

    def take(self, index: int, stop: Callable[[], bool]) -> Result:
        """Return the result of job `index`, waiting for it."""
        if index in self._found:
            return self._found.pop(index)
        key = self._keys.pop(index)
        if index in self._same:
            result = dataclasses.replace(self._last[key], id=self._same.pop(index).id)
            self._waiting[key] -= 1
        else:
            result = self._last[key] = self.pool.take(index, stop)
            self.cache.keep(key, result)
        if not self._waiting[key]:
            del self._waiting[key], self._last[key]
        return result


class _Pool:
    """Worker threads around a queue of entries and a table of results."""

    def __init__(self, first: Worker, count: int, strict: bool, unsafe: bool, share: int) -> None:
        self.tier, self.count, self.strict, self.unsafe, self.share = first.tier, count, strict, unsafe, share
        self._lone = "shared" if first.tier == "D" and not unsafe else "alone"  # how a program runs by itself
        quick = "quick" if first.quick and strict else self._lone
        self._first = "shared" if share > 1 or self._lone == "shared" else quick  # how a program with tests runs at first
        self._fresh: deque[_Entry] = deque()
        self._again: deque[_Entry] = deque()
        self._results: dict[int, Result] = {}
        self._lock = threading.Condition()
        self._wanted = 0  # the result that is waited for
        self._closed = False
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._workers: set[Worker] = {first}
        self._spare: Worker | None = first

    def put(self, index: int, job: Job) -> None:
        """Queue a job; start a thread when there is work for one more."""
        if job.language != "python":
            mode = "foreign"
        elif not job.tests:
            mode = "script"
        else:
            mode = self._first if job.stdin is None else self._lone
        with self._lock:
            self._fresh.append(_Entry(index, job, mode, self.strict))
            if len(self._threads) < self.count and len(self._fresh) > self.share * len(self._threads):
                thread = threading.Thread(target=self._work, daemon=True, name=f"sandbox-{len(self._threads)}")
                self._threads.append(thread)
                thread.start()
            self._lock.notify()

    def take(self, index: int, stop: Callable[[], bool]) -> Result:
        """Return the result of job `index`, waiting for it."""
        with self._lock:
            self._wanted = index
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
        workers: dict[str, Worker] = {}
        try:
            while entries := self._next():
                kind = "foreign" if entries[0].mode == "foreign" else "python"
                if kind not in workers:
                    workers[kind] = self._start(kind)
                if kind == "foreign" and self._cannot_run(workers[kind], entries[0]):
                    continue
                if not self._run(workers[kind], entries):
                    self._end(workers.pop(kind))
        except BaseException as problem:
            with self._lock:
                self._failure = problem
                self._lock.notify_all()
        finally:
            for worker in workers.values():
                self._end(worker)

    def _run(self, worker: Worker, entries: list[_Entry]) -> bool:
        """Run entries that fit together; return whether the worker can go on."""
        first, left, healthy = entries[0], dict(enumerate(entries)), True
        jobs = [e.job for e in entries]
        try:
            for place, outcome in worker.run(
                jobs, first.mode, strict=first.strict, unsafe=self.unsafe, recorded=first.recorded
            ):
                healthy = healthy and not outcome.ended.startswith("judge")
                self._settle(left.pop(place), outcome)
        except WorkerLost as problem:
            self._after_loss(list(left.values()), str(problem))
            return False
        if left:  # jobs behind one that ended their child, or their judge
            with self._lock:
                for entry in reversed(left.values()):
                    if healthy:
                        self._fresh.appendleft(entry)
                    else:  # one of them may be what the judge was lost in
                        self._again.append(self._by_itself(entry))
                self._lock.notify_all()
        return healthy

    def _cannot_run(self, worker: Worker, entry: _Entry) -> bool:
        """Give a foreign job its result where this tier or this machine does not run its language."""
        job = entry.job
        if self._lone == "shared":
            detail = f"refused at tier D: {job.language} (ask for unsafe execution to run it anyway)"
            result = Result(job.id, "harness_error", detail)
        elif why := toolchains.unmeasurable(worker, job.language):
            result = Result(job.id, "not_measured", why)
        else:
            return False
        self._give(entry.index, dataclasses.replace(result, tier=self.tier))
        return True

    def _start(self, kind: str) -> Worker:
        with self._lock:
            if kind == "python" and self._spare is not None:
                worker, self._spare = self._spare, None
                return worker
        worker = Worker(self.tier, kind)
        with self._lock:
            self._workers.add(worker)
            if self._closed:
                worker.hang_up()
        return worker

    def _end(self, worker: Worker) -> None:
        with self._lock:
            self._workers.discard(worker)
        worker.close()

    def _next(self) -> list[_Entry]:
        """Return the entries to run next: reruns first, then fresh jobs; empty when closed."""
        with self._lock:
            while not self._closed:
                if self._again:
                    return self._together(self._again)
                if self._fresh:
                    return self._together(self._fresh)
                self._lock.wait()
            return []

    def _together(self, queue: deque[_Entry]) -> list[_Entry]:
        """Take entries that can be handed over together, leaving as much for the other workers."""
        entries = [queue.popleft()]
        most = self.share if entries[0].mode == "shared" else _TOGETHER
        parts = self.count if entries[0].mode == "shared" else 2 * self.count  # a slow one holds up those behind it
        size = max(1, min(most, (len(queue) + parts) // parts))
        while queue and len(entries) < size and entries[0].fits(queue[0]):
            entries.append(queue.popleft())
        return entries

    def _settle(self, entry: _Entry, outcome: Outcome) -> None:
        """Turn a final outcome into a result; queue the job again where only another way to run it can tell."""
        again = self._another_way(entry, outcome)
        if again is None:
            self._give(entry.index, self._result(entry, outcome))
            return
        with self._lock:
            self._again.append(again)
            self._lock.notify_all()

    def _by_itself(self, entry: _Entry) -> _Entry:
        """Return the entry as it runs when it ended oddly: by itself, question by question."""
        return dataclasses.replace(entry, mode=self._lone, recorded=False, attempt=entry.attempt + 1)

    def _another_way(self, entry: _Entry, outcome: Outcome) -> _Entry | None:
        """Return how a job is to run again, None where its outcome is final."""
        status = outcome.status
        if entry.mode in ("script", "foreign"):
            return None
        again = self._by_itself(entry)
        if status == "unsendable" and entry.strict:
            return dataclasses.replace(again, strict=False, beside=True)
        if entry.mode == "shared" and entry.attempt == 0:
            refused_for_good = status == "refused" and self._lone == "shared"
            return None if status in _FINAL_IN_SHARED or refused_for_good else again
        odd = bool(outcome.ended) or status in ("differs", "lost", "memory", "output_limit")
        # a recording asks on where a failed test would have ended the questions
        return again if odd and entry.recorded and entry.strict else None

    def _after_loss(self, entries: list[_Entry], why: str) -> None:
        """A worker vanished under its batch: every job once more; twice lost is the harness's own error."""
        for entry in entries:
            if entry.lost:
                detail = f"the worker was lost twice: {why}"
                self._give(entry.index, Result(entry.job.id, "harness_error", detail, tier=self.tier))
                continue
            mode = entry.mode if entry.mode in ("script", "foreign") else self._lone
            with self._lock:
                self._again.append(dataclasses.replace(entry, mode=mode, recorded=False, attempt=entry.attempt + 1, lost=True))
                self._lock.notify_all()

    def _give(self, index: int, result: Result) -> None:
        with self._lock:
            self._results[index] = result
            if index == self._wanted:
                self._lock.notify_all()

    def _result(self, entry: _Entry, outcome: Outcome) -> Result:
        job = entry.job
        if entry.mode == "foreign":
            status, detail = toolchains.verdict(job, outcome, same_output)
        else:
            status, detail = verdict(job, outcome, entry.mode, may_refuse=self._lone == "shared")
        if entry.beside:
            detail = f"checked in the program's own process. {detail}".strip()
        shared = entry.mode == "shared"
        return Result(job.id, status, detail, outcome.cpu_s, outcome.wall_s, self.tier, outcome.printed[-2000:], shared)


def _checked(job: Job) -> Job:
    """Return the job with the usual name of its language and, in Python, no byte order mark, which a file may begin with;
    raises RefusedError for a language that is not run."""
    if job.language == "python":
        return dataclasses.replace(job, program=job.program[1:]) if job.program.startswith("\ufeff") else job
    return dataclasses.replace(job, language=toolchains.language_of(job.language, f"job {job.id!r}"))


def verdict(job: Job, outcome: Outcome, mode: str, *, may_refuse: bool) -> tuple[str, str]:
    """Return (status, detail): limits broken first, then the judge's word, then how the process ended; `may_refuse`: what runs
    here was proven harmless, and a script that says it was refused tells the truth."""
    limits, ended = job.limits, outcome.ended
    texts = {
        "timeout_cpu": f"used {outcome.cpu_s:.2f} s of CPU, limit {limits.cpu_s} s",
        "timeout_wall": f"ran {outcome.wall_s:.2f} s, limit {limits.wall_s} s",
        "output_limit": f"printed more than {limits.output_bytes} bytes",
        "memory": f"its processes together held more than {limits.memory_bytes} bytes",
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
    if outcome.status in ("syntax", "raised", "forged", "tests_died"):
        return "error", outcome.detail
    if outcome.status == "unsendable":
        return "harness_error", f"the tests cannot be judged: {outcome.detail}"
    if outcome.status and outcome.status != "lost":
        return outcome.status, outcome.detail
    return _of_process(job, outcome, mode, may_refuse)


def _of_process(job: Job, outcome: Outcome, mode: str, may_refuse: bool) -> tuple[str, str]:
    """Verdict of a script, or of a program whose process ended before its tests did."""
    code = os.waitstatus_to_exitcode(outcome.wait_status)
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        if name in ("SIGXCPU", "SIGKILL") and outcome.cpu_s >= 0.9 * job.limits.cpu_s:
            return "timeout_cpu", f"used {outcome.cpu_s:.2f} s of CPU, limit {job.limits.cpu_s} s"
        return "crash", f"ended by {name}"
    if mode != "script":
        return "error", f"the program ended its process (exit code {code}) before its tests were through"
    if may_refuse and code == 76 and outcome.errors.startswith("the program holds "):
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
