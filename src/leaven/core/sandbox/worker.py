"""A batch of jobs -> their outcomes, through one worker process (inside/zygote.py) that is replaced when it breaks.

The supervisor's side of two sockets: programs go to the worker, tests straight to its judge. Blocking calls, one
thread per worker (pool.py). Not covered: order, retries and verdict policy (pool.py).
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leaven.core.sandbox.inside.plaindata import Channel
from leaven.core.sandbox.jobs import Job
from leaven.core.sandbox.toolchains import COMPILE, plan, readable_folders

_ZYGOTE = Path(__file__).parent / "inside" / "zygote.py"
_slots = itertools.count()


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

    Raises:
        TierUnavailable: on construction, when the tier cannot be set up here.
    """

    def __init__(self, tier: str) -> None:
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
            "-B",
            "-X",
            "utf8",
            str(_ZYGOTE),
            str(control.fileno()),
            str(verdicts.fileno()),
            tier,
            str(uid),
            self._scratch,
            os.pathsep.join((sys.base_prefix, *readable_folders())),
        ]
        with control, verdicts:
            self._process = subprocess.Popen(
                command,
                env={k: os.environ[k] for k in ("LD_LIBRARY_PATH",) if k in os.environ}
                | {"PATH": "/usr/bin:/bin", "LD_BIND_NOW": "1"},
                pass_fds=(control.fileno(), verdicts.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        self._channel = Channel(self._control, 1 << 30)
        self._judge = Channel(self._verdicts, 1 << 30)
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

    def run(self, jobs: Sequence[Job], mode: str, *, strict: bool = True, unsafe: bool = False) -> list[Outcome]:
        """Run jobs with equal limits in one child; `mode` is shared (allow-listed only), alone, script or foreign.

        Returns one outcome per job; "skipped" for those after a job that ended the child.

        Raises:
            WorkerLost: the worker died or did not answer in time; close it and start another.
        """
        self._n += 1
        limits = jobs[0].limits
        patience_s = 30 + 2 * len(jobs) * limits.wall_s
        if mode == "foreign":
            patience_s += 10 * COMPILE["wall_s"]
        self._control.settimeout(patience_s)
        self._verdicts.settimeout(patience_s)
        task = {
            "n": self._n,
            "mode": mode,
            "limits": dataclasses.asdict(limits),
            "stdin": jobs[0].stdin,
            "unsafe": unsafe,
            "programs": [{"program": j.program} for j in jobs],
        }
        if mode == "foreign":
            task["plan"] = plan(jobs[0])
        words: dict[int, list] = {}
        try:
            self._channel.send(task)
            if mode not in ("script", "foreign"):
                tests = [{"tests": list(j.tests), "entry_point": j.entry_point} for j in jobs]
                self._judge.send(
                    {"n": self._n, "jobs": tests, "strict": strict, "cpu_s": limits.cpu_s, "unsafe": unsafe}
                )
            report = self._channel.receive()
            for _ in report["jobs"]:
                _, index, *word = self._judge.receive()
                words[index] = word
        except (EOFError, OSError, ValueError, OverflowError) as problem:
            raise WorkerLost(f"{type(problem).__name__}: {problem}") from None
        return [self._outcome(i, len(jobs), words, report, mode) for i in range(len(jobs))]

    def _outcome(self, index: int, n_jobs: int, words: dict[int, list], report: dict, mode: str) -> Outcome:
        judged = len(report["jobs"])
        cpu_s, wall_s = report["jobs"][index] if index < judged else (0.0, 0.0)
        if n_jobs == 1:
            cpu_s, wall_s = report["cpu_s"], report["wall_s"]
        ended = report["reason"] if index == judged or (index == judged - 1 and words[index][0] == "lost") else ""
        status, detail, printed = words.get(index, ("" if index == judged else "skipped", "", ""))
        if n_jobs == 1 and report["reason"] == "output_limit":
            ended = "output_limit"
        if mode in ("script", "foreign"):
            status, ended = "", report["reason"]
        return Outcome(
            status,
            detail,
            printed or (report["stdout"] if n_jobs == 1 else ""),
            report["stderr"],
            cpu_s,
            wall_s,
            ended,
            report["status"],
            report.get("step", ""),
        )

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
