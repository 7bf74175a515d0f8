"""A worker: warm interpreter -> one limited child per batch of programs. Exec'ed fresh as `python -I -S -B zygote.py
...`.

Never forked from a process that holds torch, so a child costs the pages of a bare interpreter; compiling once and
importing a few modules before the first fork is most of the speed. The worker is trusted: it forks, watches CPU time
(the child's own clock), wall time and output, kills, and reports how the child ended. It never sees tests, expected
values or verdict details: candidates are forked from it, and memory can be searched.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
os.register_at_fork = lambda **_: None  # type: ignore[assignment]  # else random and threading run Python code in every child

import _socket  # noqa: E402
import array  # noqa: E402
import builtins  # noqa: E402
import fcntl  # noqa: E402
import gc  # noqa: E402
import select  # noqa: E402
import signal  # noqa: E402
import time  # noqa: E402

import allow  # noqa: E402
import cage as cages  # noqa: E402
import candidate  # noqa: E402
import foreign  # noqa: E402
import foreign_watch  # noqa: E402
import judge  # noqa: E402
import plaindata  # noqa: E402

OWN_MODULES = ("allow", "cage", "candidate", "foreign", "foreign_watch", "judge", "kernel", "plaindata")
WARM_PROGRAM = """
from typing import List, Dict, Optional
from collections import Counter, defaultdict
import math, re

class C:
    def __init__(self, x): self.x = x

def f(x: List[int], k: int = 0) -> list:
    \'\'\'Text.\'\'\'
    total, seen = 0, set()
    for i, v in enumerate(sorted(map(str, x), reverse=True)):
        if v not in seen and i >= 0: seen.add(v)
        total += i * 2 % 7
    try:
        table = {k: v for k, v in zip(range(3), "abc")}
    except (KeyError, ValueError) as problem:
        raise
    while total > 3: total -= 1
    rest = (lambda a: a)(1), re.sub("a", "b", "a"), max(1, 2)
    return [x, f"{total}", [a for a in (1, 2) if a], len(table), C(1).x, rest]
"""
RPC_FD, JUDGE_CONTROL_FD = 3, 4
JUDGE_LIMITS = {"cpu_s": 0, "memory_bytes": 2 << 30, "processes": 64, "file_bytes": 1 << 20}


def cpu_clock(pid: int) -> float:
    """Return the CPU seconds a live process has used so far; 0.0 where the system has no such clock (macOS)."""
    if not cages.LINUX:
        return 0.0
    try:
        return time.clock_gettime(((~pid) << 3) | 2)
    except OSError:
        return 0.0


class Zygote:
    """Serves the supervisor over `control`; `verdicts` is only handed on to judges."""

    def __init__(self, control: plaindata.Channel, verdicts: _socket.socket, cage: cages.Cage) -> None:
        self.control = control
        self.verdicts = verdicts
        self.cage = cage
        self.modules = allow.Modules()
        self.judge_pid = 0
        self.judge_control: _socket.socket | None = None
        self.count = 0

    # -- children -----------------------------------------------------------------------------------------------------

    def start_judge(self) -> None:
        """Fork the judge: it gets the supervisor's verdict socket and a control socket to this worker."""
        mine, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        folder = self.new_folder()
        lock = self.cage.prepare(JUDGE_LIMITS, "judge")
        pid = self.cage.fork()
        if pid:
            theirs.close()
            self.judge_pid, self.judge_control = pid, mine
            return
        try:
            high = 100
            os.dup2(self.verdicts.fileno(), high)
            os.dup2(theirs.fileno(), JUDGE_CONTROL_FD)
            os.dup2(high, RPC_FD)
            lock.apply(folder, JUDGE_CONTROL_FD + 1)
            gc.enable()
            control = _socket.socket(fileno=JUDGE_CONTROL_FD)
            supervisor = plaindata.Channel(_socket.socket(fileno=RPC_FD), 1 << 30)
            worker = judge.Judge(control, supervisor, self.modules, self.cage.tier, candidate.REPLY_LIMIT)
            worker.serve(lambda: receive_socket(control))
        finally:
            os._exit(0)

    def start_candidate(
        self, task: dict, rpc: _socket.socket | None, stdio: tuple[int, int, int], folder: str
    ) -> int:
        """Fork a child that serves the judge over `rpc`, or runs a script when there is none."""
        lock = self.cage.prepare(task["limits"])
        pid = self.cage.fork()
        if pid:
            return pid
        status = 98
        try:
            for place, fd in enumerate(stdio):
                os.dup2(fd, place)
            if rpc is not None:
                os.dup2(rpc.fileno(), RPC_FD)
            lock.apply(folder, RPC_FD + 1 if rpc is not None else RPC_FD)
            gc.enable()
            shared = task["mode"] == "shared"
            if rpc is None:
                proven_only = self.cage.tier == "D" and not task["unsafe"]
                status = candidate.run_script(task["programs"][0]["program"], self.modules if proven_only else None)
            else:
                channel = plaindata.Channel(_socket.socket(fileno=RPC_FD), 1 << 30)
                candidate.Candidate(
                    channel, task["programs"], self.modules if shared else None, task["limits"]["output_bytes"]
                ).serve()
                status = 0
        finally:
            os._exit(status)

    def start_foreign(self, task: dict, stdio: tuple[int, int, int], folder: str, report: int) -> int:
        """Fork a child that compiles and runs a program in another language."""
        plan, limits = task["plan"], task["limits"]
        widest = {
            "cpu_s": max(limits["cpu_s"], plan["compile_limits"]["cpu_s"]),
            "memory_bytes": max(plan["address_bytes"], plan["compile_address_bytes"]),
            "processes": plan["processes"] + 2,
            "file_bytes": max(limits["file_bytes"], 64 << 20),
        }
        lock = self.cage.prepare(widest, "foreign")
        pid = self.cage.fork()
        if pid:
            return pid
        status = 97
        try:
            high = fcntl.fcntl(report, fcntl.F_DUPFD, 100)
            for place, fd in enumerate(stdio):
                os.dup2(fd, place)
            os.dup2(high, RPC_FD)
            lock.apply(folder, RPC_FD + 1)
            status = foreign.run(task["programs"][0]["program"], plan, RPC_FD, plan["stay"])
        except Exception as problem:
            os.write(2, f"{type(problem).__name__}: {problem}\n".encode("utf-8", "replace"))
            os.write(RPC_FD, b"gone\n")
        finally:
            os._exit(status)

    def run_foreign(self, task: dict) -> dict:
        """Compile and run one program in another language; return how it ended."""
        task["plan"]["stay"] = self.cage.tier in "AB"
        folder = self.new_folder()
        stdin = open_stdin(task["stdin"], self.cage.scratch if self.cage.tier in "CD" else "/tmp")
        pipes = [os.pipe() for _ in range(3)]  # stdout, stderr, foreign.py's report
        for read, _ in pipes:
            os.set_blocking(read, False)
        pid = self.start_foreign(task, (stdin, pipes[0][1], pipes[1][1]), folder, pipes[2][1])
        os.close(stdin)
        for _, write in pipes:
            os.close(write)
        watch = foreign_watch.ForeignWatch(self, task, pid, [pipes[0][0], pipes[1][0]], pipes[2][0])
        try:
            watch.until_over()
        finally:
            report = watch.end()
            for read, _ in pipes:
                os.close(read)
            if folder:
                remove_tree(folder)
        return report

    def end_everything(self, pid: int) -> None:
        """The supervisor is gone: take the children along."""
        for one in (pid, self.judge_pid):
            if one:
                os.kill(one, signal.SIGKILL)
        self.cage.bury(pid)
        if self.cage.scratch:
            remove_tree(self.cage.scratch)
        os._exit(0)

    def new_folder(self) -> str:
        """Return a fresh private folder for a child ("" where it gets a tmpfs of its own)."""
        if self.cage.tier in "AB":
            return ""
        self.count += 1
        folder = os.path.join(self.cage.scratch, str(self.count))
        os.mkdir(folder, 0o700)
        return folder

    # -- one batch ----------------------------------------------------------------------------------------------------

    def run(self, task: dict) -> dict:
        """Run one batch; return how it ended, the CPU and wall seconds of each judged job, and the output of a lone
        one."""
        script = task["mode"] == "script"
        folder = self.new_folder()
        stdin = open_stdin(task["stdin"], self.cage.scratch if self.cage.tier in "CD" else "/tmp")
        pipes = [os.pipe() for _ in range(2 if script else 1)]  # a script's stderr is no part of its answer
        for read, _ in pipes:
            os.set_blocking(read, False)
        rpc = theirs = None
        if not script:
            if not self.judge_pid:
                self.start_judge()
            rpc, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        pid = self.start_candidate(task, theirs, (stdin, pipes[0][1], pipes[-1][1]), folder)
        os.close(stdin)
        for _, write in pipes:
            os.close(write)
        if theirs is not None:
            theirs.close()
            send_socket(self.judge_control, rpc)
            rpc.close()
        watch = Watch(self, task, pid, [read for read, _ in pipes])
        try:
            watch.until_over()
        finally:
            report = watch.end()
            for read, _ in pipes:
                os.close(read)
            if folder:
                remove_tree(folder)
        return report

    def serve(self) -> None:
        """Answer the supervisor until it hangs up."""
        while True:
            try:
                task = self.control.receive()
            except EOFError:
                break
            report = self.run_foreign(task) if task["mode"] == "foreign" else self.run(task)
            self.control.send(report)
            if report["reason"].startswith("judge"):
                return  # the judge's conversation with the supervisor is cut; a fresh worker is cheap
        if self.judge_pid:
            self.judge_control.close()  # the judge ends by itself; waiting counts its CPU time
            os.waitpid(self.judge_pid, 0)
        if self.cage.scratch:
            remove_tree(self.cage.scratch)  # the supervisor may have been killed


class Watch:
    """Watches one candidate (and the judge beside it) against the limits of its task."""

    def __init__(self, zygote: Zygote, task: dict, pid: int, outputs: list[int]) -> None:
        self.zygote, self.task, self.pid = zygote, task, pid
        self.outputs = {fd: bytearray() for fd in outputs}
        self.limits = task["limits"]
        self.reason = ""
        self.jobs: list[list[float]] = []
        self.n_output = 0
        self.notices = b""
        self.begun = self.wall_mark = time.monotonic()
        self.cpu_mark = 0.0
        self.judge_mark = cpu_clock(zygote.judge_pid) if task["mode"] != "script" else 0.0
        self.over = self.judged = self.lost = False

    def until_over(self) -> None:
        """Return when the judge is through, the script has ended, or a limit is broken (then `reason` names it)."""
        script = self.task["mode"] == "script"
        poll = select.poll()
        for fd in self.outputs:
            poll.register(fd, select.POLLIN)
        supervisor = self.zygote.control.sock.fileno()
        poll.register(supervisor, select.POLLHUP | getattr(select, "POLLRDHUP", 0))
        other = -1
        if not script:
            other = self.zygote.judge_control.fileno()
        elif hasattr(os, "pidfd_open"):
            other = os.pidfd_open(self.pid)
        if other >= 0:
            poll.register(other, select.POLLIN)
        try:
            while not self.over:
                ready = poll.poll(self.check_limits() * 1000 if other >= 0 else 20)
                for fd, what in ready:
                    if fd == supervisor:
                        self.zygote.end_everything(self.pid)
                    if fd in self.outputs and (
                        not self.read_output(fd) or what & select.POLLHUP and not what & select.POLLIN
                    ):
                        poll.unregister(fd)
                    if fd == other:
                        self.read_notices() if not script else self.finish()
                if script and other < 0 and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    self.finish()
        finally:
            if script and other >= 0:
                os.close(other)

    def check_limits(self) -> float:
        """Return the seconds until a limit can next be broken; note the reason when one is."""
        limit = self.limits["cpu_s"]
        cpu_left = limit - (cpu_clock(self.pid) - self.cpu_mark)
        wall_left = self.limits["wall_s"] - (time.monotonic() - self.wall_mark)
        judge_left = limit
        if self.task["mode"] != "script":
            judge_left = 2 * limit - (cpu_clock(self.zygote.judge_pid) - self.judge_mark)
        if cpu_left <= 0:
            self.finish("timeout_cpu")
        elif judge_left <= 0:
            self.finish("judge_cpu")
        elif wall_left <= 0:  # time spent ready to run without a core is not the program's
            wall_left += min(self.zygote.cage.waited_s(self.pid), 9 * self.limits["wall_s"])
            if wall_left <= 0:
                self.finish("timeout_wall")
        return max(0.001, min(cpu_left, judge_left, wall_left) + 0.001)

    def finish(self, reason: str = "") -> None:
        """Mark the batch as over for `reason`."""
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
            self.outputs[fd] += part
            if self.n_output > self.limits["output_bytes"]:
                self.finish("output_limit")
                return True

    def read_notices(self) -> None:
        """Take the judge's notices: a job judged (its times end here), the batch over, or the judge itself gone."""
        try:
            part = self.zygote.judge_control.recv(4096)
        except ConnectionError:
            part = b""
        if not part:
            self.over, self.reason = True, "judge_gone"
            return
        self.notices += part
        now, cpu = time.monotonic(), cpu_clock(self.pid)
        while len(self.notices) >= 5:
            what, self.notices = self.notices[:1], self.notices[5:]
            if what == b"e":
                self.judged = True
                self.finish()
                return
            self.lost = what == b"l"
            self.jobs.append([max(0.0, cpu - self.cpu_mark), now - self.wall_mark])
            self.cpu_mark, self.wall_mark = max(cpu, self.cpu_mark), now
            self.judge_mark = cpu_clock(self.zygote.judge_pid)

    def end(self) -> dict:
        """Kill and bury the candidate; return the report."""
        wall = time.monotonic() - self.begun
        if self.lost and not self.reason and not self.ended_by_itself():
            self.reason = "closed"
        if self.task["mode"] != "script" or self.reason:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        _, status, usage = os.wait4(self.pid, 0)
        self.zygote.cage.bury(self.pid)
        if self.task["mode"] != "script" and not self.judged:
            self.await_judge()
        if not self.reason:
            for fd in self.outputs:
                self.read_output(fd)
        texts = ["" if self.task["mode"] == "shared" else t.decode("utf-8", "replace") for t in self.outputs.values()]
        if self.reason.startswith("judge"):
            os.kill(self.zygote.judge_pid, signal.SIGKILL)
            os.waitpid(self.zygote.judge_pid, 0)
        return {
            "n": self.task["n"],
            "reason": self.reason,
            "status": status,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "wall_s": wall,
            "jobs": self.jobs,
            "stdout": texts[0],
            "stderr": texts[-1] if len(texts) > 1 else "",
            "max_rss_bytes": usage.ru_maxrss * (1024 if cages.LINUX else 1),
        }

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
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self.reason = "judge_cpu"
                return
            self.read_notices()


def send_socket(over: _socket.socket, sock: _socket.socket) -> None:
    """Pass a socket to the process at the other end of `over`."""
    over.sendmsg([b"c"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))])


def receive_socket(over: _socket.socket) -> _socket.socket | None:
    """Return the next socket passed over `over`, None when the other end is closed."""
    data, extra, _, _ = over.recvmsg(1, _socket.CMSG_SPACE(4))
    if not data or not extra:
        return None
    return _socket.socket(fileno=array.array("i", extra[0][2][:4])[0])


def open_stdin(text: str | None, folder: str) -> int:
    """Return a descriptor from which `text` can be read (the null device for None)."""
    if not text:
        return os.open("/dev/null", os.O_RDONLY)
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("stdin", 0)
    else:
        path = os.path.join(folder, "stdin")
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.unlink(path)
    data = memoryview(text.encode("utf-8", "surrogateescape"))
    while data:
        data = data[os.write(handle, data) :]
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


def remove_tree(folder: str) -> None:
    """Delete a folder that a hostile program may have filled; never follows a link."""
    try:
        os.chmod(folder, 0o700)
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(entry.path)
                else:
                    os.unlink(entry.path)
        os.rmdir(folder)
    except FileNotFoundError:
        return


def dress_up() -> None:
    """Keep programs from importing the sandbox's modules by name, and give them the names `site` would."""
    for name in OWN_MODULES:
        sys.modules.pop(name, None)
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]


def main() -> None:
    """Enter the cage, warm up, say so, serve."""
    control_fd, verdict_fd, tier, uid, scratch, readable = sys.argv[1:7]
    control = plaindata.Channel(_socket.socket(fileno=int(control_fd)), 1 << 30)
    verdicts = _socket.socket(fileno=int(verdict_fd))
    try:
        cage = cages.Cage(tier, int(uid), scratch)
        cage.enter(readable.split(os.pathsep))
        zygote = Zygote(control, verdicts, cage)
        zygote_check(zygote)
    except (cages.CageError, OSError) as problem:
        control.send({"failed": str(problem)})
        return
    del sys.path[0], sys.argv[1:]
    warm_up(zygote.modules)
    dress_up()
    control.send({"ready": tier})
    gc.collect()
    gc.freeze()
    gc.disable()
    zygote.serve()


def warm_up(modules: allow.Modules) -> None:
    """Do here once what every child will do: what is built, cached or specialised now is shared with it, not
    copied."""
    near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    here, there = plaindata.Channel(near, 1 << 20), plaindata.Channel(far, 1 << 20)
    programs = [{"program": WARM_PROGRAM}]
    names = judge._names(compile(WARM_PROGRAM, "<tests 0>", "exec"), set())
    for own in (modules, modules, None, None):
        there.send([1, "load", 0, ["f", "C"]])
        child = candidate.Candidate(here, programs, own, 1 << 16)
        child.answer(*here.receive()[:2], [0, ["f", "C"]])
        judge.own_names(plaindata.decode(there.receive()[2]["f"], lambda *_: {}), names, "f")
        for value in ([1, 2.5, "a"], (1, [2]), {"a": 1}, {1}):
            there.send([2, "call", {"H": 0}, plaindata.encode((value,)), plaindata.encode({})])
            child.answer(*here.receive()[:2], [{"H": 0}, plaindata.encode((value,)), plaindata.encode({})])
            plaindata.decode(there.receive()[2])
    near.close()
    far.close()
    sys.modules.pop("program", None)


def zygote_check(zygote: Zygote) -> None:
    """Lock one throw-away child; raise CageError with its reason if that fails."""
    folder = zygote.new_folder()
    read, write = os.pipe()
    lock = zygote.cage.prepare({"cpu_s": 1, "memory_bytes": 1 << 30, "processes": 16, "file_bytes": 1 << 20})
    pid = zygote.cage.fork()
    if not pid:
        try:
            os.dup2(write, RPC_FD)
            lock.apply(folder, RPC_FD + 1)
            os.write(RPC_FD, b"ok")
        except Exception as problem:
            os.write(RPC_FD, str(problem).encode())
        finally:
            os._exit(0)
    os.close(write)
    text = b"".join(iter(lambda: os.read(read, 4096), b"")).decode()
    os.close(read)
    os.waitpid(pid, 0)
    if folder:
        remove_tree(folder)
    if text != "ok":
        raise cages.CageError(text or "a child died while giving up its rights")


if __name__ == "__main__":
    main()
