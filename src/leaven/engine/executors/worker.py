"""One task -> one artifact, inside a fresh interpreter that serves one step at a time (started by local.py).

Tasks arrive as JSON lines on standard input, reports leave as JSON lines on descriptor FD; whatever a step prints goes
to standard output, which the parent writes to the step's log. The worker ends when its parent does: standard input
closes, and on Linux the kernel kills it. Ctrl-C is the parent's business: it sends {"stop": true}, which turns
`ctx.stop()` true. Not covered: choosing tasks (run.py), starting workers (local.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import importlib
import json
import os
import queue
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from leaven.core.step import Resources, StepContext
from leaven.engine.executors import FailureKind, Report, Task, TaskInput
from leaven.engine.graph import input_digest
from leaven.engine.provenance import fingerprint
from leaven.engine.store import DEEP_LIMIT_BYTES, Cost, Recipe, Source, Store, remove
from leaven.errors import BackendError, Interrupted, LeavenError

PROGRESS_SECONDS = 0.2


class DamagedInput(Exception):
    """The input `name` is not what was published or declared."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name


def execute(task: Task, stop: Callable[[], bool], progress: Callable[[float, float, str], None]) -> Report:
    """Run one task under its key's lock and publish what it wrote; never raises, every end is a report."""
    store = Store(task.store)
    checked: list[str] = []
    try:
        with store.lock(task.key, wait=False) as held:
            if not held:
                return Report(task.id, "busy")
            if store.lookup(task.key) is not None:
                return Report(task.id, "cached")
            _check_inputs(task, store, checked)
            _build(task, store, stop, progress)
        return Report(task.id, "done", checked=tuple(checked))
    except DamagedInput as damage:
        return Report(task.id, "damaged", name=damage.name, reason=str(damage), checked=tuple(checked))
    except Interrupted as stopped:
        return Report(task.id, "interrupted", reason=str(stopped))
    except BaseException as error:  # a step may raise anything, SystemExit included; the worker outlives it
        return _failure(task, store, error)


def _build(task: Task, store: Store, stop: Callable[[], bool], progress: Callable[[float, float, str], None]) -> None:
    """Call the step's function in its work folder, measure it and publish."""
    out = store.prepare(task.key)
    module, _, name = task.function.partition(":")
    known = {f.name for f in dataclasses.fields(Resources)}
    runtime = Resources(**{**{k: v for k, v in task.resources.items() if k in known}, "threads": task.threads})
    context = StepContext(runtime=runtime, progress=progress, stop=stop)
    recipe = Recipe(task.function, task.version, task.deterministic, task.spec,
                    {n: Source(i.node, i.key, i.digest) for n, i in task.inputs.items()})
    with _memory_limit(runtime.memory_bytes), _measured() as cost:
        function = getattr(importlib.import_module(module), name)
        function(dict(task.spec), {n: Path(i.path) for n, i in task.inputs.items()}, out, context)
    store.publish(task.id, recipe, cost(), fingerprint(threads=task.threads, device=runtime.device))


def _check_inputs(task: Task, store: Store, checked: list[str]) -> None:
    """Raise DamagedInput unless every input is what its digest says; `checked` collects what was digested again."""
    for name, source in task.inputs.items():
        detail = _damage(source, store)
        if detail:
            raise DamagedInput(name, detail)
        if source.check:
            checked.append(source.key or source.path)


def _damage(source: TaskInput, store: Store) -> str:
    """Return what is wrong with one input, "" when it is sound."""
    path = Path(source.path)
    if not path.exists():
        return f"{path} does not exist"
    if source.key:
        return store.damage(source.key, deep=source.check)
    if not source.check or (path.is_file() and path.stat().st_size >= DEEP_LIMIT_BYTES):
        return ""
    found = input_digest(path)
    if found == source.digest:
        return ""
    return f"{path}: expected content {source.digest[:12]}, found {found[:12]}; it changed since the plan was made"


def _failure(task: Task, store: Store, error: BaseException) -> Report:
    """Describe why a step failed; its traceback goes to its log, damage of an input it read takes precedence."""
    traceback.print_exception(error, file=sys.stderr)
    for name, source in task.inputs.items():
        detail = _damage(dataclasses.replace(source, check=False), store)
        if detail:
            return Report(task.id, "damaged", name=name, reason=detail)
    kind = failure_kind(error)
    if kind == "full_disk":  # give the space back; only what resumes is worth keeping
        for path in store.work(task.key).glob("[!_]*"):
            remove(path)
    shown = str(error) if isinstance(error, LeavenError) else f"{type(error).__name__}: {error}"
    return Report(task.id, "failed", kind=kind, reason=shown)


def failure_kind(error: BaseException) -> FailureKind:
    """Classify an exception by itself and by what caused it."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for one in chain:
        text = str(one).lower()
        if getattr(one, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "no space left on device" in text:
            return "full_disk"
        if isinstance(one, MemoryError) or getattr(one, "errno", None) == errno.ENOMEM or "out of memory" in text \
                or "can't allocate memory" in text:
            return "out_of_memory"
    if isinstance(error, BackendError):
        return "backend"
    return "error" if isinstance(error, LeavenError) else "exception"


@contextlib.contextmanager
def _memory_limit(limit_bytes: int) -> Iterator[None]:
    """Cap this process's private memory while a step runs: a MemoryError here is better than a machine that swaps."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if limit_bytes > 0:
        hard = before[1]
        cap = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (cap, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@contextlib.contextmanager
def _measured() -> Iterator[Callable[[], Cost]]:
    """Yield a function that returns the cost since entering; child processes that ended count."""
    _reset_peak()
    wall, cpu = time.monotonic(), sum(os.times()[:4])
    yield lambda: Cost(round(time.monotonic() - wall, 3), round(sum(os.times()[:4]) - cpu, 3), _peak_rss_bytes())


def _reset_peak() -> None:
    """Start a new peak of resident memory (Linux); elsewhere the peak is that of the worker's life."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_rss_bytes() -> int:
    """Return the peak resident bytes of this process."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def task_from(raw: Mapping[str, Any]) -> Task:
    """Return the Task of its JSON form."""
    return Task(**{**raw, "inputs": {name: TaskInput(**source) for name, source in raw["inputs"].items()}})


def _tie_to_parent(parent: int) -> None:
    """Make sure this process cannot outlive its parent, and that the kernel's memory killer prefers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the parent blocked it while this process started
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500")
    if os.getppid() != parent:
        os._exit(1)


def serve(reports_fd: int, parent: int) -> None:
    """Run tasks from standard input until it closes."""
    _tie_to_parent(parent)
    os.set_inheritable(reports_fd, False)  # programs that a step starts must not keep it open
    tasks: queue.Queue[Task] = queue.Queue()
    stopping, writing = threading.Event(), threading.Lock()
    incoming = os.fdopen(os.dup(0), "r", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # a step that reads standard input must not eat tasks

    def listen() -> None:
        for line in incoming:
            message = json.loads(line)
            stopping.set() if message.get("stop") else tasks.put(task_from(message))
        os._exit(0)  # the parent is gone; whatever runs here resumes later

    def send(report: Report) -> None:
        data = (json.dumps(dataclasses.asdict(report)) + "\n").encode()
        with writing:
            while data:
                data = data[os.write(reports_fd, data):]

    threading.Thread(target=listen, daemon=True).start()
    while True:
        task = tasks.get()
        report = execute(task, stopping.is_set, _throttled(task.id, send))
        sys.stdout.flush()
        sys.stderr.flush()
        send(report)


def _throttled(task_id: str, send: Callable[[Report], None]) -> Callable[..., None]:
    """Return a progress callback that passes on at most one call per PROGRESS_SECONDS."""
    last = 0.0

    def progress(done: float, total: float, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS:
            last = now
            send(Report(task_id, "progress", done=float(done), total=float(total), note=note))

    return progress


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
