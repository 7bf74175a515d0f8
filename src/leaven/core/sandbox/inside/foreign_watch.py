"""A foreign program's processes -> how they ended: the worker's side of foreign.py.

A compiled or interpreted program may start others, and a virtual machine reserves memory it never uses, so CPU time,
resident memory and the number of processes are summed over all processes of the job, read from the system's process
table. Each step (compile, run) has its own limits. Where there is no process table the first process stands for all.
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import Any

_LOOK_S = 0.05  # processes are counted this often
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class ForeignWatch:
    """Watches one foreign job; `until_over`, then `end` for the report."""

    def __init__(self, zygote: Any, task: dict, pid: int, outputs: list[int], report_fd: int) -> None:
        self.zygote, self.task, self.pid, self.report_fd = zygote, task, pid, report_fd
        self.outputs = {fd: bytearray() for fd in outputs}
        self.step, self.reason, self.status = "start", "", 0
        self.limits = task["plan"]["compile_limits"]
        self.n_output = 0
        self.pending = b""
        self.begun = time.monotonic()
        self.cpu_mark = self.cpu_s = self.told_cpu_s = 0.0
        self.over = False

    def until_over(self) -> None:
        """Return when the program has ended or broken a limit (then `reason` names it)."""
        poll = select.poll()
        for fd in (*self.outputs, self.report_fd):
            poll.register(fd, select.POLLIN)
        supervisor = self.zygote.control.sock.fileno()
        poll.register(supervisor, select.POLLHUP | getattr(select, "POLLRDHUP", 0))
        ending = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else -1
        if ending >= 0:
            poll.register(ending, select.POLLIN)
        look_at = 0.0
        while not self.over:
            for fd, what in poll.poll(1000 * _LOOK_S):
                if fd == supervisor:
                    self.zygote.end_everything(self.pid)
                elif fd == ending:
                    poll.unregister(fd)
                elif fd == self.report_fd:
                    if not self.read_report():
                        poll.unregister(fd)
                elif not self.read_output(fd) or what & select.POLLHUP and not what & select.POLLIN:
                    poll.unregister(fd)
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                self.read_report()
                self.over = True
            if not self.over and time.monotonic() >= look_at:
                self.check_limits()
                look_at = time.monotonic() + _LOOK_S
        if ending >= 0:
            os.close(ending)

    def check_limits(self) -> None:
        """Note the reason when a limit is broken."""
        cpu_s, resident, count = self.zygote.cage.usage_of(self.pid, self.zygote.judge_pid)
        self.cpu_s = max(self.cpu_s, cpu_s - self.cpu_mark)
        wall_s = time.monotonic() - self.begun
        if self.cpu_s > self.limits["cpu_s"]:
            self.reason = "timeout_cpu"
        elif count > self.task["plan"]["processes"] + 2:
            self.reason = "processes"
        elif resident > self.limits["memory_bytes"]:
            self.reason = "memory"
        elif wall_s > self.limits["wall_s"]:
            waited_s = min(self.zygote.cage.waited_s(self.pid, everyone=True), 9 * self.limits["wall_s"])
            if wall_s > self.limits["wall_s"] + waited_s:
                self.reason = "timeout_wall"
        self.over = self.over or bool(self.reason)

    def read_report(self) -> bool:
        """Take what foreign.py says: the step it is in, how the compiler or the program ended. False at its end."""
        try:
            part = os.read(self.report_fd, 4096)
        except BlockingIOError:
            return True
        *lines, self.pending = (self.pending + part).split(b"\n")
        for line in lines:
            word, *rest = line.decode("ascii", "replace").split()
            if word == "ended":
                self.status, self.told_cpu_s = int(rest[0]), float(rest[1])
            else:
                self.step = word
                self.status = int(rest[0]) if rest else 0
                if word == "run":
                    self.cpu_mark = self.zygote.cage.usage_of(self.pid, self.zygote.judge_pid)[0]
                    self.cpu_s, self.limits, self.begun = 0.0, self.task["limits"], time.monotonic()
        return bool(part)

    def read_output(self, fd: int) -> bool:
        """Take what was printed; False at end of file."""
        while True:
            try:
                part = os.read(fd, 1 << 16)
            except BlockingIOError:
                return True
            if not part:
                return False
            self.n_output += len(part)
            self.outputs[fd] += part
            if self.n_output > self.task["limits"]["output_bytes"]:
                self.reason, self.over = "output_limit", True
                return True

    def end(self) -> dict:
        """Kill and bury what is left; return the report."""
        wall_s = time.monotonic() - self.begun
        if self.reason:
            os.kill(self.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        self.zygote.cage.bury(self.pid, self.zygote.judge_pid)
        for fd in self.outputs:
            if not self.reason:
                self.read_output(fd)
        stayed = self.task["plan"]["stay"]
        if not (stayed and self.step == "run") and self.step != "uncompiled":
            self.status = status
        if stayed and self.step == "run" and os.waitstatus_to_exitcode(status) and not self.reason:
            self.status = status  # the parent of the program died before it could say how the program ended
        used_s = usage.ru_utime + usage.ru_stime - self.cpu_mark
        stdout, stderr = (t.decode("utf-8", "replace") for t in self.outputs.values())
        return {
            "reason": self.reason,
            "step": self.step,
            "status": self.status,
            "cpu_s": max(self.told_cpu_s, self.cpu_s if self.reason else used_s if not stayed else 0.0),
            "wall_s": wall_s,
            "stdout": stdout,
            "stderr": stderr,
        }
