"""A batch of programs with a child each, every child asked one question: the worker's shortest way through.

A worker shares its pages with its last child, so what it does between two forks is paid for twice. Here it forks and
waits, nothing else; a timer looks after limits, output and the supervisor. Program and question wait for a child in a
socket that the judge has filled; the child answers and ends by itself. Only for settled workers (tier A).
"""

from __future__ import annotations

import _socket
import os
import select
import signal
import sys
from os import close
from time import monotonic
from typing import Any

import watch

_LOOK_S = 0.05
_LATE_S = 0.05
_GIST = ("reason", "status", "cpu_s", "wall_s", "stdout", "stderr")


class QuickBatch:
    """Runs quick batches of one worker."""

    def __init__(self, zygote: Any) -> None:
        self.zygote = zygote
        self.output = zygote.pipes[0][0]
        self.poll = select.poll()
        self.poll.register(self.output, select.POLLIN)
        self.pid = self.owner = 0
        self.begun = 0.0
        self.limits: dict[str, Any] = {}
        self.eyes: watch.Watch | None = None

    def run(self, task: dict, lock: Any) -> None:
        """Run a child for every socket the judge sends; a report on each goes to the supervisor."""
        zygote, self.limits, self.owner = self.zygote, task["limits"], os.getpid()
        sockets, trouble = self.await_sockets()
        if trouble:
            zygote.send_reports([], trouble)
        fork, wait, printed, names = zygote.cage.fork, zygote.cage.wait, self.poll.poll, os.listdir
        set_blocking, writer = os.set_blocking, zygote.pipes[0][1]
        end_after_one, output_bytes = zygote.candidate.end_after_one, task["limits"]["output_bytes"]
        signal.signal(signal.SIGALRM, self.look)
        signal.setitimer(signal.ITIMER_REAL, _LOOK_S, _LOOK_S)
        reports, sent, left = [], monotonic(), len(sockets)
        for rpc in sockets:
            left -= 1
            if rpc >= 0:
                self.begun = monotonic()
                self.pid = fork()
                if not self.pid:
                    end_after_one(rpc, lock, output_bytes)
                close(rpc)
                status, cpu_s = wait(self.pid)
                if self.eyes is None and not printed(0):
                    reports.append(("", status, cpu_s, monotonic() - self.begun, "", ""))
                else:
                    reports.append(self.report(status, cpu_s))
                self.pid = 0
                set_blocking(writer, True)  # the pipe is the next child's too
                if names("."):
                    zygote.cage.tidy()
            else:
                reports.append(("", 0, 0.0, 0.0, "", ""))
            if not left or monotonic() - sent > _LATE_S:
                trouble = "" if left else self.await_judge()
                zygote.send_reports([dict(zip(_GIST, r, strict=True)) for r in reports], trouble)
                reports, sent = [], monotonic()

    def look(self, *_: Any) -> None:
        """What the timer does: is the child within its limits, does it print, is the supervisor still there?"""
        if not self.pid or os.getpid() != self.owner:
            return
        if self.zygote.poll.poll(0):  # the supervisor hung up
            self.zygote.end_everything(self.pid)
        if self.eyes is None:
            self.eyes = watch.Watch(self.zygote, "quick", self.limits, self.pid, [self.output], self.begun)
        self.eyes.read_output(self.output)
        self.eyes.check_limits()
        if self.eyes.over:
            os.kill(self.pid, signal.SIGKILL)

    def report(self, status: int, cpu_s: float) -> tuple:
        """Return the report on a child that took long or printed something."""
        eyes = self.eyes or watch.Watch(self.zygote, "quick", self.limits, self.pid, [self.output], self.begun)
        self.eyes = None
        eyes.drain(self.output)
        return eyes.reason, status, max(cpu_s, eyes.used), monotonic() - self.begun, eyes.texts()[0], ""

    def await_sockets(self) -> tuple[list[int], str]:
        """Return a descriptor for each program, -1 where there is nothing to ask, or why the judge had to be killed."""
        control = self.zygote.judge_control
        while not (trouble := self.listen_to_judge()):
            data, extra, _, _ = control.recvmsg(256, _socket.CMSG_SPACE(4 * 256))
            if not data:
                return [], "judge_gone"
            if asked := data.lstrip(b"t"):  # what was sent apart may arrive in one piece
                raw = b"".join(part[2] for part in extra)
                found = iter(int.from_bytes(raw[i : i + 4], sys.byteorder) for i in range(0, len(raw), 4))
                return [next(found) if one else -1 for one in asked], ""
        return [], trouble

    def await_judge(self) -> str:
        """Wait until the judge is through with the batch; return why it had to be killed, if it had."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        while not (trouble := self.listen_to_judge()):
            notice = self.zygote.judge_control.recv(64)[-1:]
            if notice == b"e":
                return ""
            if not notice:
                return "judge_gone"
        return trouble

    def listen_to_judge(self) -> str:
        """Wait for a word of the judge; return why it had to be killed instead: tests may take long without a program."""
        zygote, limit = self.zygote, self.limits["cpu_s"]
        mark = watch.cpu_clock(zygote.judge_pid)
        poll = select.poll()
        poll.register(zygote.judge_fd, select.POLLIN)
        poll.register(zygote.control.sock, select.POLLHUP | getattr(select, "POLLRDHUP", 0))
        while True:
            for fd, _ in poll.poll(1000 * limit):
                if fd != zygote.judge_fd:
                    zygote.end_everything(0)
                return ""
            if watch.cpu_clock(zygote.judge_pid) - mark > 2 * limit:
                os.kill(zygote.judge_pid, signal.SIGKILL)
                return "judge_cpu"
