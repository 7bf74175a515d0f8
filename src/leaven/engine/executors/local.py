"""Tasks -> worker processes of this machine, reused from step to step (a worker pays for its imports once).

Each worker's thread pools are sized by its environment when it starts, so a worker serves tasks of one thread count;
threads of running tasks never exceed the cores. Workers get the environment without the secrets of
`provenance.secrets`; what they print passes through `redact` on its way to the step's log. Not covered: what a worker
does (worker.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from leaven.engine.executors import Report, Task

GRACE_SECONDS = 8.0
"""How long running steps may take to save their work after Ctrl-C before they are killed."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
                    "VECLIB_MAXIMUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS")


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalExecutor:
    """Runs at most `workers` tasks at once that fit `total_threads` and `memory_bytes` (0: any) together."""

    def __init__(self, *, workers: int, total_threads: int, memory_bytes: int, environ: Mapping[str, str],
                 redact: Callable[[str], str]) -> None:
        self._workers, self._threads, self._memory = workers, total_threads, memory_bytes
        self._environ, self._redact = dict(environ), redact
        self._all: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._deadline: float | None = None

    def _running(self) -> list[Task]:
        return [w.task for w in self._all if w.task is not None]

    def room(self, threads: int, memory_bytes: int) -> bool:
        """Return whether a task of this size can start now; alone, every task may."""
        running = self._running()
        if self._deadline is not None or len(running) >= self._workers:
            return False
        all_threads = threads + sum(t.threads for t in running)
        all_memory = memory_bytes + sum(t.memory_bytes for t in running)
        return not running or (all_threads <= self._threads and (not self._memory or all_memory <= self._memory))

    def submit(self, task: Task) -> None:
        """Start a task on an idle worker of its thread count, or on a new one."""
        idle = [w for w in self._all if w.task is None]
        fitting = [w for w in idle if w.threads == task.threads]
        if fitting:  # prefer one that has imported this module already
            worker = max(fitting, key=lambda w: task.function.partition(":")[0] in w.modules)
        else:
            for other in idle[:max(0, len(self._all) + 1 - self._workers)]:
                self._drop(other)
            worker = _Worker(task.threads, self._environ, self._redact)
            self._all.append(worker)
            self._selector.register(worker.reports, selectors.EVENT_READ, worker)
            self._selector.register(worker.output, selectors.EVENT_READ, worker)
        worker.start(task)

    def poll(self, timeout: float) -> list[Report]:
        """Return what happened within `timeout` seconds."""
        found: list[Report] = []
        ready = {id(key.data): key.data for key, _ in self._selector.select(timeout)}
        for worker in ready.values():
            found += worker.read()
            if worker.dead:
                found += worker.obituary(cancelled=self._deadline is not None)
                self._drop(worker)
        if any(r.kind == "out_of_memory" for r in found):  # a heap that hit its limit is no good start
            for worker in [w for w in self._all if w.task is None]:
                self._drop(worker)
        if self._deadline is not None and time.monotonic() > self._deadline:
            self.cancel(now=True)
        return found

    def cancel(self, *, now: bool = False) -> None:
        """Ask running steps to stop within GRACE_SECONDS; with `now`, kill them (poll reports them as interrupted)."""
        if self._deadline is None:
            self._deadline = time.monotonic() + GRACE_SECONDS
        for worker in self._all:
            worker.kill() if now else worker.send({"stop": True})

    def close(self) -> None:
        """End every worker."""
        for worker in list(self._all):
            self._drop(worker)
        self._selector.close()

    def _drop(self, worker: _Worker) -> None:
        self._selector.unregister(worker.reports)
        self._selector.unregister(worker.output)
        self._all.remove(worker)
        worker.close()


class _Worker:
    """One worker process with its pipes, the task it runs and that task's log."""

    def __init__(self, threads: int, environ: Mapping[str, str], redact: Callable[[str], str]) -> None:
        self.threads, self.modules, self.dead = threads, set[str](), False
        self.task: Task | None = None
        self._log: BinaryIO | None = None
        self._redact, self._partial, self._line = redact, b"", b""
        read_fd, write_fd = os.pipe()
        # a fixed hash seed: the order of sets must not differ between a run and its repetition
        env = {**environ, **dict.fromkeys(THREAD_VARIABLES, str(threads)), "PYTHONHASHSEED": "0",
               "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-P", "-m", "leaven.engine.executors.worker", str(write_fd), str(os.getpid())]
        # blocked until the worker ignores it: a Ctrl-C during its start must not end it half imported
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                             stderr=subprocess.STDOUT, pass_fds=(write_fd,), env=env)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(write_fd)
        assert self._process.stdout is not None and self._process.stdin is not None
        self.reports, self.output, self._input = read_fd, self._process.stdout.fileno(), self._process.stdin
        os.set_blocking(self.reports, False)
        os.set_blocking(self.output, False)

    def start(self, task: Task) -> None:
        """Send a task and open its log."""
        self.task = task
        with contextlib.suppress(OSError):  # a full disk must not end the run; the step's own failure says it
            Path(task.log).parent.mkdir(parents=True, exist_ok=True)
            self._log = open(task.log, "wb")  # closed when the task ends
        self.modules.add(task.function.partition(":")[0])
        self.send(dataclasses.asdict(task))

    def send(self, message: Mapping[str, object]) -> None:
        """Write one message; a worker that died meanwhile is noticed by `read`."""
        with contextlib.suppress(BrokenPipeError):
            self._input.write(json.dumps(message).encode() + b"\n")
            self._input.flush()

    def read(self) -> list[Report]:
        """Return the reports that arrived; a final one ends the task after its output was drained."""
        data, closed = _drain(self.reports)
        *lines, self._line = (self._line + data).split(b"\n")
        reports = []
        for line in lines:
            raw = json.loads(line)
            reason = self._redact(raw.pop("reason"))
            reports.append(Report(**{**raw, "checked": tuple(raw["checked"]), "reason": reason}))
        self._copy_output()
        self.dead = closed
        if any(r.outcome != "progress" for r in reports):
            self._end_task()
        return reports

    def _copy_output(self) -> None:
        """Move what the step printed into its log, whole lines at a time so that redaction sees whole secrets."""
        data, _ = _drain(self.output)
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > 65536:
            lines, self._partial = [*lines, self._partial], b""
        for line in lines:
            self._write(line)

    def _write(self, line: bytes) -> None:
        if self._log is not None:
            with contextlib.suppress(OSError):  # as above
                self._log.write(self._redact(line.decode("utf-8", "replace")).encode() + b"\n")
                self._log.flush()

    def _end_task(self) -> None:
        if self._partial:
            self._write(self._partial)
        if self._log is not None:
            with contextlib.suppress(OSError):
                self._log.close()
        self.task, self._log, self._partial = None, None, b""

    def obituary(self, *, cancelled: bool) -> list[Report]:
        """Return the report of the task that died with this worker, if it had one."""
        if self.task is None:
            return []
        task, code = self.task, self._process.wait()
        self._copy_output()
        self._end_task()
        if cancelled:
            return [Report(task.id, "interrupted", reason="did not stop in time and was ended")]
        if code == -signal.SIGKILL:
            return [Report(task.id, "failed", kind="out_of_memory",
                           reason="its process was killed by signal 9, which is how the system ends a process when "
                                  "memory runs out; lower the batch size, the threads or the workers")]
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        reason = f"its process died ({name}); its log may say more: {task.log}"
        return [Report(task.id, "failed", kind="crash", reason=reason)]

    def kill(self) -> None:
        """End the process now."""
        self._process.kill()

    def close(self) -> None:
        """End the process and free its pipes."""
        self.kill()
        self._process.wait()
        self._end_task()
        os.close(self.reports)
        for pipe in (self._process.stdout, self._input):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _drain(fd: int) -> tuple[bytes, bool]:
    """Return what can be read now without waiting, and whether the other end is closed."""
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(fd, 65536)
        except BlockingIOError:
            return b"".join(parts), False
        if not part:
            return b"".join(parts), True
        parts.append(part)
