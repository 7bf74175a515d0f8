"""A batch of jobs -> their outcomes, through one worker process (inside/zygote.py) that is replaced when it breaks.

The supervisor's side of two sockets: programs go to the worker, tests straight to its judge. Blocking calls, one
thread per worker (pool.py). Not covered: order, retries and verdict policy (pool.py).
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leaven.core.sandbox.inside.plaindata import Channel
from leaven.core.sandbox.jobs import Job
from leaven.core.sandbox.libraries import ENVIRONMENT, library_paths
from leaven.core.sandbox.toolchains import COMPILE, plan, readable_folders

_ZYGOTE = Path(__file__).parent / "inside" / "zygote.py"
_slots = itertools.count()
_NO_WORD = ("", "", "", 0.0, 0.0)
NO_REPORT = {"reason": "", "status": 0, "cpu_s": 0.0, "wall_s": 0.0, "stdout": "", "stderr": ""}


class WorkerLost(Exception):
    """The worker process ended or fell silent; its batch has no outcome."""


class TierUnavailable(Exception):
    """This machine cannot give the tier; the text says what refused."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one job of a batch: the judge's word (empty when it got none) and the worker's report.

    `printed` is stdout (with stderr, unless the job is a script), `errors` a script's stderr; `step` says how far a
    program in another language came (compile, uncompiled, gone, run).
    """

    status: str
    detail: str
    printed: str
    errors: str
    cpu_s: float
    wall_s: float
    ended: str
    wait_status: int
    step: str = ""


class Worker:
    """One exec'ed worker and the thread-side of its two sockets.

    `kind` is python or foreign (programs in other languages, whose compilers need more of the system and whose children
    set themselves up).

    Raises:
        TierUnavailable: on construction, when the tier cannot be set up here.
    """

    def __init__(self, tier: str, kind: str = "python") -> None:
        self.tier = tier
        self._scratch = tempfile.mkdtemp(prefix="leaven-sandbox-") if tier in "CD" else ""  # A and B have a tmpfs
        self._control, control = socket.socketpair()
        self._verdicts, verdicts = socket.socketpair()
        python = getattr(sys, "_base_executable", "") or sys.executable
        uid = 0x40000000 + (os.getpid() % (1 << 20)) * 128 + 2 * (next(_slots) % 64)
        command = [
            python,
            "-I",
            "-S",
            "-X",
            "utf8",
            str(_ZYGOTE),
            str(control.fileno()),
            str(verdicts.fileno()),
            tier,
            str(uid),
            self._scratch,
            kind,
            os.pathsep.join((sys.base_prefix, *(readable_folders() if kind == "foreign" else ()))),
            os.pathsep.join(library_paths() if kind == "python" else ()),
        ]
        with control, verdicts:
            self._process = subprocess.Popen(
                command,
                env={k: os.environ[k] for k in ("LD_LIBRARY_PATH",) if k in os.environ}
                | {"PATH": "/usr/bin:/bin", "LD_BIND_NOW": "1"}
                | ENVIRONMENT,
                pass_fds=(control.fileno(), verdicts.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        self._channel = Channel(self._control, 1 << 30, "both", ahead=0)  # what was read ahead, poll would not see
        self._judge = Channel(self._verdicts, 1 << 30, "mine", ahead=0)
        self._n = 0
        self._control.settimeout(60)
        try:
            hello = self._channel.receive()
        except (EOFError, OSError, ValueError) as problem:
            self.close()
            raise TierUnavailable(f"the worker did not start ({problem})") from None
        if "failed" in hello:
            self.close()
            raise TierUnavailable(hello["failed"])
        self.quick = bool(hello["quick"])

    def run(
        self, jobs: Sequence[Job], mode: str, *, strict: bool = True, unsafe: bool = False, recorded: bool = True
    ) -> Iterator[tuple[int, Outcome]]:
        """Run jobs with equal limits and yield (place in `jobs`, outcome) as they end.

        Args:
            jobs: one or more; exactly one for the modes script and foreign.
            mode: shared (all in one child; allow-listed programs only), alone (a child each), quick (a child each, one
                question and answer each), script or foreign.
            strict: expected values stay out of the program's process.
            unsafe: at tier D, also run what the allow-list refuses.
            recorded: find out beforehand what the tests will ask, and ask it in one message (quick: always).

        Jobs after one that ended the shared child, or after a judge that had to be killed, are not yielded.

        Raises:
            WorkerLost: the worker died or did not answer in time; close it and start another.
        """
        self._n += 1
        limits = jobs[0].limits
        patience_s = 30 + 2 * len(jobs) * limits.wall_s * 10 + (10 * COMPILE["wall_s"] if mode == "foreign" else 0)
        task: dict[str, Any] = {
            "mode": mode,
            "limits": dataclasses.asdict(limits),
            "stdin": jobs[0].stdin,
            "unsafe": unsafe,
            "count": len(jobs),
        }
        if mode == "foreign":
            task["plan"] = plan(jobs[0])
        elif mode == "shared":
            task["programs"] = [j.program for j in jobs]
        judged = mode in ("shared", "alone", "quick")
        self._control.settimeout(patience_s)
        self._verdicts.settimeout(patience_s)
        try:
            self._channel.send(task)
            if judged:
                self._judge.send(self._tests(jobs, mode, strict, unsafe, recorded))
            if mode not in ("shared", "quick"):
                self._channel.post(b"".join(self._channel.frame(job.program) for job in jobs))
            if mode == "shared":
                yield from self._shared(len(jobs), *next(self._ends(1, True, patience_s)))
                return
            for place, (report, words) in enumerate(self._ends(len(jobs), judged, patience_s)):
                yield place, _outcome(report, words.get(place, _NO_WORD), lone=True, judged=judged)
        except (EOFError, OSError, ValueError, OverflowError) as problem:
            raise WorkerLost(f"{type(problem).__name__}: {problem}") from None

    def _tests(self, jobs: Sequence[Job], mode: str, strict: bool, unsafe: bool, recorded: bool) -> dict[str, Any]:
        return {
            "n": self._n,
            "mode": mode,
            "jobs": [(list(j.tests), j.entry_point) for j in jobs],
            "strict": strict,
            "cpu_s": jobs[0].limits.cpu_s,
            "unsafe": unsafe,
            "recorded": recorded,
            "programs": [j.program for j in jobs] if mode == "quick" else [],
        }

    def _ends(self, count: int, judged: bool, patience_s: float) -> Iterator[tuple[dict[str, Any], dict[int, tuple]]]:
        """Yield (the worker's report, the judge's words so far) for each of `count` children, when both have come.

        A judge that is gone says no more; its worker's report says so, and is the last.
        """
        reports: list[dict[str, Any]] = []
        words: dict[int, tuple] = {}
        spoken = 0  # children on which the judge has said all it will
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        if judged:
            poll.register(self._verdicts, select.POLLIN)
        def judge_lost() -> bool:
            return bool(reports) and reports[-1]["reason"].startswith("judge")

        for place in range(count):
            while len(reports) <= place or judged and spoken <= place and not judge_lost():
                ready = poll.poll(1000 * patience_s)
                if not ready:
                    raise TimeoutError("no answer in time")
                for fd, _ in ready:
                    if fd == self._control.fileno():
                        reports += self._channel.receive()
                        continue
                    try:
                        n, said, found = self._judge.receive()
                    except EOFError:
                        poll.unregister(self._verdicts)
                        continue
                    if n != self._n:
                        raise ValueError("words on another batch")
                    spoken += said
                    words |= {int(i): tuple(word) for i, *word in found}
            if judge_lost() and spoken <= place and place not in words:
                yield NO_REPORT | reports[-1], words
                return
            yield reports[place], words

    def _shared(self, count: int, report: dict[str, Any], words: dict[int, tuple]) -> Iterator[tuple[int, Outcome]]:
        """Outcomes of a shared child: the judge's words; how the child ended concerns the first job it lacks words on."""
        for place in range(count):
            word = words.get(place)
            if word is not None and word[0] != "lost":
                yield place, _outcome(report | {"reason": ""}, word, lone=count == 1, judged=True)
            elif word is not None or report["reason"]:
                yield place, _outcome(report, word or _NO_WORD, lone=count == 1, judged=True)
                return
            else:
                return

    def hang_up(self) -> None:
        """End the conversation from any thread: the worker kills what it runs and `run` raises WorkerLost."""
        for sock in (self._control, self._verdicts):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # already closed

    def close(self) -> None:
        """End the worker and all it started; remove its folder."""
        self._control.close()
        self._verdicts.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)


def _outcome(report: dict[str, Any], word: tuple, *, lone: bool, judged: bool) -> Outcome:
    """Join the worker's report on a child and the judge's word on one job in it."""
    status, detail, printed, cpu_s, wall_s = word
    ended = report["reason"]
    if judged and status not in ("", "lost") and ended != "output_limit" and not ended.startswith("judge"):
        ended = ""
    return Outcome(
        status=status,
        detail=detail,
        printed=printed or (report["stdout"] if lone else ""),
        errors=report["stderr"],
        cpu_s=report["cpu_s"] if lone else cpu_s,
        wall_s=report["wall_s"] if lone else wall_s,
        ended=ended,
        wait_status=report["status"],
        step=report.get("step", ""),
    )
