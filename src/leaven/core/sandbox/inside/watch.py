"""One candidate process -> how it ended: the worker's eyes on its CPU time, wall time, output and judge.

Limits hold for one job: the judge ticks while jobs go on, and every tick lets the clocks begin anew. A wall limit is
stretched by the time the process was ready to run but had no core. Not covered: what the answers are worth (judge.py),
programs in other languages (foreign_watch.py).
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import Any

LINUX = hasattr(os, "pidfd_open") or os.uname().sysname == "Linux"
_KEPT_CHARS = 4000  # of what a program with tests printed; a script's output is its answer and goes back whole


def cpu_clock(pid: int) -> float:
    """Return the CPU seconds a live process has used so far; 0.0 where the system has no such clock (macOS)."""
    if not LINUX:
        return 0.0
    try:
        return time.clock_gettime(((~pid) << 3) | 2)
    except OSError:
        return 0.0


class Watch:
    """Watches one candidate (and the judge beside it) against its limits: `until_over`, then `end` for the report."""

    def __init__(self, zygote: Any, mode: str, limits: dict, pid: int, outputs: list[int], begun: float) -> None:
        self.zygote, self.pid = zygote, pid
        self.script = mode == "script"
        self.unjudged = mode in ("script", "quick")  # ends by itself; a judge may be at work, but not with this child
        self.quiet = mode == "shared"
        self.outputs = {fd: bytearray() for fd in outputs}
        self.limits = limits
        self.reason = ""
        self.n_output = 0
        self.begun = self.wall_mark = begun
        self.cpu_mark = self.used = 0.0
        self.judge_mark = 0.0 if self.unjudged else cpu_clock(zygote.judge_pid)
        self.over = self.judged = self.lost = False

    def until_over(self) -> None:
        """Return when the judge is through, the script has ended, or a limit is broken (then `reason` names it)."""
        poll = select.poll()
        for fd in self.outputs:
            poll.register(fd, select.POLLIN)
        supervisor = self.zygote.control.sock.fileno()
        poll.register(supervisor, select.POLLHUP | getattr(select, "POLLRDHUP", 0))
        other = -1
        if not self.unjudged:
            other = self.zygote.judge_control.fileno()
        elif hasattr(os, "pidfd_open"):
            other = os.pidfd_open(self.pid)
        if other >= 0:
            poll.register(other, select.POLLIN)
        patience = min(self.limits["cpu_s"], self.limits["wall_s"]) / self.zygote.cores
        try:
            while not self.over:
                ready = poll.poll(1000 * patience if other >= 0 else 20)
                for fd, what in ready:
                    if fd == supervisor:
                        self.zygote.end_everything(self.pid)
                    if fd in self.outputs and (
                        not self.read_output(fd) or what & select.POLLHUP and not what & select.POLLIN
                    ):
                        poll.unregister(fd)
                    if fd == other:
                        self.read_notices() if not self.unjudged else self.finish()
                if self.unjudged and other < 0 and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    self.finish()
                if not self.over:
                    patience = self.check_limits()
        finally:
            if self.unjudged and other >= 0:
                os.close(other)

    def check_limits(self) -> float:
        """Return the seconds until a limit can next be broken; note the reason when one is."""
        limit = self.limits["cpu_s"]
        used, resident = self.usage()
        self.used = max(self.used, used - self.cpu_mark)
        cpu_left = limit - (used - self.cpu_mark)
        wall_left = self.limits["wall_s"] - (time.monotonic() - self.wall_mark)
        judge_left = limit
        if not self.unjudged:
            judge_left = 2 * limit - (cpu_clock(self.zygote.judge_pid) - self.judge_mark)
        if cpu_left <= 0:
            self.finish("timeout_cpu")
        elif resident > self.limits["memory_bytes"]:
            self.finish("memory")
        elif judge_left <= 0:
            self.finish("judge_cpu")
        elif wall_left <= 0:  # time spent ready to run without a core is not the program's
            wall_left += min(self.zygote.cage.waited_s(self.pid), 9 * self.limits["wall_s"])
            if wall_left <= 0:
                self.finish("timeout_wall")
        return max(0.001, min(cpu_left / self.zygote.cores, judge_left, wall_left) + 0.001)

    def usage(self) -> tuple[float, int]:
        """Return the CPU seconds of the child and, where it may have started others, of all its processes with the bytes
        they hold together."""
        own = cpu_clock(self.pid)
        if self.quiet:
            return own, 0
        everyone, resident, count = self.zygote.cage.usage_of(self.pid, self.zygote.judge_pid)
        return (max(own, everyone), resident) if count > 1 else (own, 0)

    def finish(self, reason: str = "") -> None:
        """Mark the child as over for `reason`."""
        self.over = True
        self.reason = self.reason or reason

    def read_output(self, fd: int) -> bool:
        """Take what the child printed; False at end of file."""
        while True:
            try:
                part = os.read(fd, 1 << 16)
            except BlockingIOError:
                return True
            if not part:
                return False
            self.n_output += len(part)
            if not self.quiet:
                self.outputs[fd] += part
            if self.n_output > self.limits["output_bytes"]:
                self.finish("output_limit")
                return True

    def read_notices(self) -> None:
        """Take the judge's notices: jobs go on (the clocks begin anew), all judged, or the judge itself is gone."""
        try:
            notices = self.zygote.judge_control.recv(64)
        except ConnectionError:
            notices = b""
        if not notices:
            self.over, self.reason = True, "judge_gone"
        elif notices[-1:] == b"t":
            self.wall_mark, self.cpu_mark = time.monotonic(), self.usage()[0]
            self.judge_mark = cpu_clock(self.zygote.judge_pid)
        else:
            self.judged, self.lost = True, notices[-1:] == b"l"
            self.finish()

    def end(self) -> dict:
        """Kill and bury the candidate; return the report."""
        wall = time.monotonic() - self.begun
        if self.lost and not self.reason and not self.ended_by_itself():
            self.reason = "closed"
        if not self.unjudged or self.reason:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        _, status, usage = os.wait4(self.pid, 0)
        self.zygote.cage.bury(self.pid, self.zygote.judge_pid)
        if not self.unjudged and not self.judged and not self.reason.startswith("judge"):
            self.await_judge()
        for fd in self.outputs:
            self.drain(fd)
        texts = self.texts()
        return {
            "reason": self.reason,
            "status": status,
            "cpu_s": max(usage.ru_utime + usage.ru_stime, self.used),
            "wall_s": wall,
            "stdout": texts[0],
            "stderr": texts[1] if len(texts) > 1 else "",
        }

    def texts(self) -> list[str]:
        """Return what was printed, of programs with tests only the end."""
        return [bytes(t if self.script else t[-_KEPT_CHARS:]).decode("utf-8", "replace") for t in self.outputs.values()]

    def drain(self, fd: int) -> None:
        """Take what is left in a pipe whose writers are all gone: its next writer must find it empty."""
        while True:
            try:
                part = os.read(fd, 1 << 16)
            except BlockingIOError:
                return
            if not part:
                return
            self.n_output += len(part)
            if self.n_output > self.limits["output_bytes"]:
                self.reason = self.reason or "output_limit"
            elif not self.quiet:
                self.outputs[fd] += part

    def ended_by_itself(self) -> bool:
        """Return whether the child whose socket closed is dead or dies within a moment (else it closed the socket and
        lives on)."""
        for _ in range(100):
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return True
            time.sleep(0.002)
        return False

    def await_judge(self) -> None:
        """The candidate is dead: the judge notices and closes the batch, unless it is itself stuck."""
        deadline = time.monotonic() + 2 * self.limits["cpu_s"] + 5
        poll = select.poll()
        poll.register(self.zygote.judge_control.fileno(), select.POLLIN)
        while not self.judged and self.reason != "judge_gone":
            if poll.poll(min(max(0.0, deadline - time.monotonic()), self.limits["cpu_s"]) * 1000):
                self.read_notices()
            elif time.monotonic() >= deadline or cpu_clock(self.zygote.judge_pid) - self.judge_mark > 2 * self.limits["cpu_s"]:
                self.reason = "judge_cpu"
                return
