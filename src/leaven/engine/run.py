"""Nodes + a store -> artifacts, links and a status file: each step once, in parallel, from what is already built.

A node's key is known as soon as its inputs are built; equal keys run once, within this run and across runs on the same
store. A failed step blocks only what reads it. The parent process never touches an artifact's content: workers check,
build and publish. Not covered: what a step computes; how a task becomes a process (executors/).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leaven.core.step import Resources
from leaven.engine.collect import Root
from leaven.engine.estimate import History, recipe_of, sources_of
from leaven.engine.executors import Executor, Report, Task, TaskInput
from leaven.engine.executors.local import LocalExecutor, cores
from leaven.engine.executors.worker import failure_kind
from leaven.engine.graph import FileInput, Node, descendants, in_order
from leaven.engine.provenance import leaves, redactor, secret_values, worker_environ
from leaven.engine.status import Event, Record, State, read_status
from leaven.engine.store import Manifest, Recipe, Store, place_link
from leaven.engine.track import Track
from leaven.errors import LeavenError, StudyError

POLL_SECONDS = 0.2
BUSY_SECONDS = 0.5
DEFAULT_RESOURCES = Resources()
MAX_REBUILDS = 3
"""How often one artifact may turn out damaged within a run before the disk is to blame."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step failed: the shown reason, its kind (executors.FailureKind), the command that resumes, its log file."""

    reason: str
    kind: str
    resume: str
    log: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, as node ids: built now, found built, failed, blocked by a failure; whether Ctrl-C ended it."""

    done: tuple[str, ...]
    cached: tuple[str, ...]
    failed: Mapping[str, Failure]
    skipped: tuple[str, ...]
    interrupted: bool

    @property
    def exit_code(self) -> int:
        """Return 130 after Ctrl-C, 1 when a step failed, else 0."""
        return 130 if self.interrupted else 1 if self.failed else 0


def run(nodes: Sequence[Node], store: Store, *, run_dir: Path, resources: Resources = DEFAULT_RESOURCES,
        workers: int = 0, log: Callable[[Event], None] = lambda event: None, resume: str = "",
        pass_env: tuple[str, ...] = (), partial: bool = False, executor: Executor | None = None) -> Outcome:
    """Build every node that is not in the store and link the artifacts below `run_dir`.

    Args:
        nodes: the graph; any order.
        store: where artifacts live; several runs may share it at once.
        run_dir: gets links, logs/, status.json and events.jsonl.
        resources: passed to steps; `memory_bytes` > 0 bounds what runs at once and each process.
        workers: steps at once (0: as many as there are cores).
        log: called with every event (status.Event).
        resume: the command that continues this run, named in failures.
        pass_env: variables that look like secrets and that steps need nevertheless.
        partial: `nodes` are part of the run folder's graph; what it says about and links to the rest stays.
        executor: where tasks run (default: processes of this machine).

    Raises StudyError for a graph that cannot run or a spec that contains a secret. A failed step is no exception: see
    Outcome.
    """
    ordered, environ = in_order(nodes), dict(os.environ)
    _refuse_secrets(ordered, environ)
    redact, run_dir = redactor(environ), Path(run_dir).absolute()
    run_dir.mkdir(parents=True, exist_ok=True)
    record = Record(run_dir, resume, log, redact)
    with store.in_use(), record.alive(), _presses() as presses:
        executor = executor or LocalExecutor(
            workers=workers or cores(), total_threads=cores(), memory_bytes=resources.memory_bytes,
            environ=worker_environ(environ, pass_env), redact=redact)
        try:
            return _Run(ordered, store, run_dir, resources, executor, record, resume, partial).loop(presses)
        finally:
            executor.close()


@dataclass(slots=True)
class _Run:
    """One run of a graph: the loop and what it keeps track of."""

    nodes: list[Node]
    store: Store
    run_dir: Path
    resources: Resources
    executor: Executor
    record: Record
    resume: str
    partial: bool
    others: dict[str, Any] = field(default_factory=dict)
    tracks: dict[str, Track] = field(default_factory=dict)
    built: dict[str, Manifest] = field(default_factory=dict)
    checked: set[str] = field(default_factory=set)
    order: list[Track] = field(default_factory=list)
    root: Root = field(init=False)
    root_warned: bool = False
    stopping: int = 0

    def __post_init__(self) -> None:
        history = History(self.store)
        for node in self.nodes:
            log = str(self.run_dir / "logs" / f"{node.id}.log")
            self.tracks[node.id] = Track(node, log, history.estimate(node.function, node.spec).wall_s)
        self.root = Root.open(self.store, self.run_dir)
        if self.partial and (self.run_dir / "status.json").is_file():
            rows = read_status(self.run_dir)["nodes"]
            self.others = {node_id: row for node_id, row in rows.items() if node_id not in self.tracks}
        self.order = self._longest_path_first()

    def _longest_path_first(self) -> list[Track]:
        """Return the tracks by the expected seconds of the longest chain that waits for them: it must start early."""
        chain: dict[str, float] = {}
        for node in reversed(self.nodes):
            chain[node.id] = chain.get(node.id, 0.0) + (self.tracks[node.id].expected_s or 1.0)
            for parent in node.parents():
                chain[parent] = max(chain.get(parent, 0.0), chain[node.id])
        return sorted(self.tracks.values(), key=lambda t: -chain[t.node.id])

    def loop(self, presses: Callable[[], int]) -> Outcome:
        """Run until nothing can run any more."""
        self.record.event("run_started", nodes=[n.id for n in self.nodes], run_dir=str(self.run_dir))
        while True:
            self._settle()
            if presses() > self.stopping:
                self.stopping = presses()
                self.executor.cancel(now=self.stopping > 1)
                self._say("stopping: running steps save their work (press Ctrl-C again to end them now)")
            self._dispatch()
            running = [t for t in self.tracks.values() if t.state == "running"]
            self.record.write("running", self._rows, self._eta_s())
            if not running and (self.stopping or not any(t.state == "waiting" for t in self.tracks.values())):
                return self._finish()
            for report in self.executor.poll(POLL_SECONDS):
                self._handle(self.tracks[report.id], report)

    def _finish(self) -> Outcome:
        """Write the last status, let go of what this run no longer names, and return the outcome."""
        by = {state: tuple(t.node.id for t in self.tracks.values() if t.state == state)
              for state in ("done", "cached", "failed", "blocked")}
        failed = {i: Failure(t.reason, t.kind, self.resume, t.log) for i in by["failed"] for t in [self.tracks[i]]}
        stopped = self.stopping > 0 and len(self.built) < len(self.nodes)
        lost = failed or any(row["state"] in ("failed", "blocked") for row in self.others.values())
        state = "interrupted" if stopped else "failed" if lost else "done"
        links = {link for node in self.nodes for link in node.links}
        self._keep(lambda: self.root.close(links, complete=state == "done" and not self.partial))
        self.record.write(state, self._rows, None, now=True)
        counts = {name: len(ids) for name, ids in by.items()}
        self.record.event("run_finished", state=state, **counts, resume=self.resume)
        return Outcome(by["done"], by["cached"], failed, by["blocked"], stopped)

    def _settle(self) -> None:
        """Give nodes whose inputs are built their key and find what the store has; they are in order: one pass."""
        for track in self.tracks.values():
            if track.state != "waiting" or track.recipe is not None:
                continue
            broken = [self.tracks[p] for p in track.node.parents() if self.tracks[p].state in ("failed", "blocked")]
            if broken:
                cause = broken[0].reason if broken[0].state == "blocked" else f"blocked by {broken[0].node.id}"
                self._move(track, "blocked", cause)
                continue
            sources = sources_of(track.node, self.built)
            if sources is not None:
                try:
                    track.recipe = recipe_of(track.node, sources)
                    track.key = track.recipe.key
                except LeavenError as error:
                    self._fail(track, str(error), "error")
                    continue
                self.root.name(track.key)
                self._find(track)
        self._keep(self.root.save)

    def _keep(self, write: Callable[[], None]) -> None:
        """Note what this run names; on a full disk `collect` may not learn of it, but steps that fit can go on."""
        try:
            write()
        except OSError as error:
            if not self.root_warned:
                self.root_warned = True
                self._say(f"{self.root.path}: cannot be written: {error}")

    def _find(self, track: Track) -> None:
        """Take a node's artifact from the store when it is there and sound."""
        manifest = self.store.lookup(track.key)
        if manifest is not None:
            self._built(track, manifest, "cached")
        elif damage := self.store.damage(track.key):
            self._say(f"{track.node.id}: its artifact is damaged ({damage}) and is built again")

    def _dispatch(self) -> None:
        """Start what is ready and fits, longest chain first; of equal keys only one."""
        running = {t.key for t in self.tracks.values() if t.state == "running"}
        now = time.monotonic()
        for track in [] if self.stopping else self.order:
            if track.state != "waiting" or track.recipe is None or track.key in running or track.retry_at > now:
                continue
            if not self.executor.room(track.node.threads, track.node.memory_bytes):
                continue
            if track.retry_at:  # another run held the lock; it may have finished
                self._find(track)
            if track.state == "waiting":
                running.add(track.key)
                track.started, track.progress = now, (0.0, 0.0, "")
                self._move(track, "running", "")
                self.executor.submit(self._task(track, track.recipe))

    def _task(self, track: Track, recipe: Recipe) -> Task:
        """Return a ready node as plain data."""
        inputs = {}
        for name, source in recipe.inputs.items():
            given = track.node.inputs[name]
            path = str(Path(given.path).absolute() if isinstance(given, FileInput) else self.store.path(source.key))
            check = (source.key or path) not in self.checked
            inputs[name] = TaskInput(path, source.node, source.key, source.digest, check)
        return Task(id=track.node.id, key=track.key, function=recipe.function, version=recipe.version,
                    deterministic=recipe.deterministic, spec=recipe.spec, inputs=inputs, store=str(self.store.root),
                    log=track.log, threads=track.node.threads, memory_bytes=track.node.memory_bytes,
                    resources=dataclasses.asdict(self.resources))

    def _handle(self, track: Track, report: Report) -> None:
        """Act on one report of the executor."""
        self.checked.update(report.checked)
        track.seconds = time.monotonic() - track.started
        twins = [t for t in self.tracks.values() if t is not track and t.state == "waiting" and t.key == track.key]
        if report.outcome == "progress":
            track.progress = (report.done, report.total, report.note)
            self.record.event("progress", node=track.node.id, done=report.done, total=report.total, note=report.note,
                              eta_s=track.row()["eta_s"], run_eta_s=self._eta_s())
        elif report.outcome in ("done", "cached"):
            manifest = self.store.lookup(track.key)
            if manifest is None:
                damage = self.store.damage(track.key) or "it was removed"
                self._fail(track, f"its artifact did not survive publication: {damage}", "corrupted_input")
                return
            self.checked.update([track.key] if report.outcome == "done" else [])
            self._built(track, manifest, "done" if report.outcome == "done" else "cached")
            for other in self.tracks.values():  # a first run has no history; the first of its kind tells about the rest
                if other.node.function == track.node.function and not other.expected_s:
                    other.expected_s = manifest.cost.wall_s
            for twin in twins:
                self._built(twin, manifest, "cached")
        elif report.outcome == "busy":
            track.retry_at = time.monotonic() + BUSY_SECONDS
            self._move(track, "waiting", "another run is building it")
        elif report.outcome == "damaged":
            self._rebuild(track, report)
        elif report.outcome == "interrupted":
            self._move(track, "interrupted", report.reason)
        else:
            self._fail(track, report.reason, report.kind)
            for twin in twins:
                self._fail(twin, f"same step as {track.node.id}: {report.reason}", "same_step")

    def _built(self, track: Track, manifest: Manifest, state: State) -> None:
        """Note a node's artifact and link it; if a rebuilt one has other content, its readers are due again."""
        node, before = track.node, self.built.get(track.node.id)
        sources = sources_of(node, self.built)
        if sources is None or track.recipe is None or sources != track.recipe.inputs:  # rebuilt while this ran
            self._wait_again(track)
            return
        self.built[node.id] = manifest
        if before is not None and before.identity != manifest.identity:
            for reader in descendants(self.nodes, [node.id]):
                if self.tracks[reader].state in ("done", "cached", "waiting"):
                    self._wait_again(self.tracks[reader])
        try:
            for link in node.links:
                place_link(self.run_dir, link, self.store.path(manifest.key))
        except (OSError, LeavenError) as error:
            self._fail(track, str(error), failure_kind(error))
            return
        self._move(track, state, "")

    def _rebuild(self, track: Track, report: Report) -> None:
        """Remove a damaged input so that it is built again while readers wait; a changed outside file is a failure."""
        source = track.node.inputs[report.name]
        producer = self.tracks[source] if isinstance(source, str) else None
        if producer is None or producer.rebuilds >= MAX_REBUILDS:
            self._fail(track, f"input {report.name}: {report.reason}", "corrupted_input")
            return
        self._say(f"{producer.node.id}: its artifact is damaged ({report.reason}) and is built again")
        producer.rebuilds += 1
        with self.store.lock(producer.key, wait=False) as held:
            if held:  # otherwise another run is at it already
                self.store.discard(producer.key)
        self.checked.discard(producer.key)
        for other in self.tracks.values():
            if other.key == producer.key and other.state in ("done", "cached"):
                self.built.pop(other.node.id, None)
                self._wait_again(other)
        for other in self.tracks.values():
            if other is track or other.state == "waiting" and sources_of(other.node, self.built) is None:
                self._wait_again(other)

    def _wait_again(self, track: Track) -> None:
        """Put a node back to where its inputs are not known yet."""
        track.recipe, track.key, track.retry_at = None, "", 0.0
        if track.state != "waiting":
            self._move(track, "waiting", "")

    def _fail(self, track: Track, reason: str, kind: str) -> None:
        track.kind = kind
        self._move(track, "failed", reason)

    def _move(self, track: Track, state: State, reason: str) -> None:
        """Change a node's state and tell everyone."""
        track.state, track.reason = state, reason
        track.kind = track.kind if state == "failed" else ""
        self.record.event("node", **track.row(), run_eta_s=self._eta_s() if state in ("done", "failed") else None)

    def _say(self, text: str) -> None:
        self.record.event("message", text=text)

    def _eta_s(self) -> float | None:
        """Return the expected seconds until the end: longest step or shared work, whichever is more; None: unknown."""
        left = [t.left_s() for t in self.tracks.values()]
        known = [seconds for seconds in left if seconds is not None]
        busy = max(1, sum(t.state == "running" for t in self.tracks.values()))
        return round(max([sum(known) / busy, *known]), 1) if known and len(known) == len(left) else None

    def _rows(self) -> dict[str, dict[str, Any]]:
        """Return the status of every node as plain data."""
        return {**self.others, **{node_id: track.row() for node_id, track in self.tracks.items()}}


def _refuse_secrets(nodes: Sequence[Node], environ: Mapping[str, str]) -> None:
    """Raise StudyError when a spec contains the value of a secret variable: it would be written into the store."""
    values = secret_values(environ)
    for node in nodes:
        for where, leaf in leaves(node.spec):
            if isinstance(leaf, str) and any(value in leaf for value in values):
                raise StudyError(f"step {node.id!r}: {where} contains the value of a secret variable; expected "
                                 "its name (the step reads it from the environment), so that no key enters the store")


@contextlib.contextmanager
def _presses() -> Iterator[Callable[[], int]]:
    """Count Ctrl-C and SIGTERM instead of dying of them; outside the main thread signals are not ours."""
    count = 0

    def press(number: int, frame: object) -> None:
        nonlocal count
        count += 1

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {number: signal.signal(number, press) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: count
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
