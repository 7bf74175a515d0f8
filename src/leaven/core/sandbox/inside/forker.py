"""A worker: warm interpreter -> one limited child per batch of programs (started by zygote.py).

Never forked from a process that holds torch, so a child costs the pages of a bare interpreter; compiling once and
importing a few modules before the first fork is most of the speed. The worker is trusted: it forks, watches CPU time
(the child's own clock), wall time and output, kills, and reports how the child ended. It never sees tests, expected
values or verdict details: candidates are forked from it, and memory can be searched.
"""

from __future__ import annotations

import _socket
import builtins
import gc
import os
import select
import signal
import sys
import time

import allow
import cage as cages
import candidate
import foreign
import foreign_watch
import judge
import plaindata
import quick
import watch
from candidate import RPC_FD

OWN_MODULES = "allow cage candidate foreign foreign_watch forker judge kernel link lock plaindata quick tape watch".split()
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
JUDGE_CONTROL_FD = 4
OWN_FRAMES = 30  # of the worker and its loop, below a program's first: they are not to count against its recursion
_LATE_S = 0.05
JUDGE_LIMITS = {"cpu_s": 0, "memory_bytes": 2 << 30, "processes": 64, "file_bytes": 1 << 20}


class Zygote:
    """Serves the supervisor over `control`; `verdicts` is only handed on to judges."""

    def __init__(self, control: plaindata.Channel, verdicts: _socket.socket, cage: cages.Cage) -> None:
        self.control = control
        self.verdicts = verdicts
        self.cage = cage
        self.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.modules = allow.Modules()
        self.judge_pid = 0
        self.judge_control: _socket.socket | None = None
        self.count = 0
        self.candidate = candidate.Candidate(plaindata.Channel(plaindata.Descriptor(RPC_FD), 1 << 30, "theirs"))
        self.pipes = [new_pipe(), new_pipe()]  # where all writers are known to be gone, one pair serves every child
        self.nothing = os.open("/dev/null", os.O_RDONLY)
        self.poll = select.poll()
        self.judge_fd = -1
        self.quick = quick.QuickBatch(self)

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
            supervisor = plaindata.Channel(_socket.socket(fileno=RPC_FD), 1 << 30, "theirs")
            worker = judge.Judge(control, supervisor, self.modules, self.cage.tier, candidate.REPLY_LIMIT)
            worker.serve(lambda: receive_socket(control))
        finally:
            os._exit(0)

    def start_candidate(
        self,
        task: dict,
        programs: list[str],
        rpc: int,
        stdio: tuple[int, int, int],
        lock: cages.Lock | cages.LightLock,
        folder: str,
    ) -> int:
        """Fork a child that serves the judge over descriptor `rpc`, or runs a script when that is -1."""
        pid = self.cage.fork()
        if pid:
            return pid
        status = 98
        try:
            for place, fd in enumerate(stdio):
                os.dup2(fd, place)
            if rpc >= 0:
                os.dup2(rpc, RPC_FD)
            lock.apply(folder, RPC_FD + 1 if rpc >= 0 else RPC_FD)
            gc.enable()
            if rpc < 0:
                proven_only = self.cage.tier == "D" and not task["unsafe"]
                status = candidate.run_script(programs[0], self.modules if proven_only else None)
            else:
                own = self.modules if task["mode"] == "shared" else None
                self.candidate.prepare(programs, own, task["limits"]["output_bytes"])
                self.candidate.serve()
                status = 0
        finally:
            os._exit(status)

    def start_foreign(self, task: dict, program: str, stdio: tuple[int, int, int], folder: str, report: int) -> int:
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
            os.dup2(report, 100)
            for place, fd in enumerate(stdio):
                os.dup2(fd, place)
            os.dup2(100, RPC_FD)
            lock.apply(folder, RPC_FD + 1)
            status = foreign.run(program, plan, RPC_FD, plan["stay"])
        except Exception as problem:
            os.write(2, f"{type(problem).__name__}: {problem}\n".encode("utf-8", "replace"))
            os.write(RPC_FD, b"gone\n")
        finally:
            os._exit(status)

    def run_foreign(self, task: dict, program: str) -> dict:
        """Compile and run one program in another language; return how it ended."""
        task["plan"]["stay"] = self.cage.tier in "AB"
        folder = self.new_folder()
        stdin = open_stdin(task["stdin"], self.cage.scratch) if task["stdin"] else self.nothing
        pipes = [new_pipe() for _ in range(3)]  # stdout, stderr, foreign.py's report
        pid = self.start_foreign(task, program, (stdin, pipes[0][1], pipes[1][1]), folder, pipes[2][1])
        if stdin != self.nothing:
            os.close(stdin)
        for _, write in pipes:
            os.close(write)
        eyes = foreign_watch.ForeignWatch(self, task, pid, [pipes[0][0], pipes[1][0]], pipes[2][0])
        try:
            eyes.until_over()
        finally:
            report = eyes.end()
            for read, _ in pipes:
                os.close(read)
            if folder:
                cages.remove_folder(folder)
        return report

    def end_everything(self, pid: int) -> None:
        """The supervisor is gone: take the children along."""
        for one in (pid, self.judge_pid):
            if one:
                os.kill(one, signal.SIGKILL)
        self.cage.bury(pid, self.judge_pid)
        if self.cage.scratch:
            cages.remove_folder(self.cage.scratch)
        os._exit(0)

    def new_folder(self) -> str:
        """Return a fresh private folder for a child ("" where it gets a tmpfs of its own)."""
        if self.cage.tier in "AB":
            return ""
        self.count += 1
        folder = os.path.join(self.cage.jobs, str(self.count))
        os.mkdir(folder, 0o700)
        return folder

    # -- tasks --------------------------------------------------------------------------------------------------------

    def run(self, task: dict) -> None:
        """Run one task and report how each of its children ended; shared programs have one child together.

        Each lone program arrives when it is its turn: no child sees a later one. Reports go back together, unless they
        would be late.
        """
        if task["mode"] == "foreign":
            self.control.send([self.run_foreign(task, self.control.receive())])
            return
        lock = self.cage.prepare(task["limits"])
        if task["mode"] == "shared":
            self.send_reports([self.run_child(task, task["programs"], lock)])
            return
        if task["mode"] == "quick":
            self.quick.run(task, lock)
            return
        reports, sent = [], time.monotonic()
        for index in range(task["count"]):
            reports.append(self.run_child(task, [""] * index + [self.control.receive()], lock))
            now = time.monotonic()
            if index + 1 == task["count"] or now - sent > _LATE_S or reports[-1]["reason"].startswith("judge"):
                self.send_reports(reports)
                reports, sent = [], now

    def send_reports(self, reports: list[dict], trouble: str = "") -> None:
        """Send reports; a judge that is gone ends the worker (its conversation with the supervisor is cut).

        `trouble` names what became of the judge after the last of the children had ended.
        """
        self.control.send([*reports, {"reason": trouble}] if trouble else reports)
        if trouble or reports[-1]["reason"].startswith("judge"):
            try:
                os.kill(self.judge_pid, signal.SIGKILL)
                os.waitpid(self.judge_pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass  # buried already
            self.judge_pid = 0
            raise EOFError

    def run_child(self, task: dict, programs: list[str], lock: cages.Lock | cages.LightLock) -> dict:
        """Run one candidate process; return how it ended."""
        mode = task["mode"]
        script = mode == "script"
        own_pipes = self.cage.tier not in "AB"
        folder = self.new_folder() if own_pipes else ""
        stdin = open_stdin(task["stdin"], self.cage.scratch) if task["stdin"] else self.nothing
        pipes = [new_pipe(), new_pipe()] if own_pipes else self.pipes
        used = pipes if script else pipes[:1]  # a script's stderr is no part of its answer
        rpc = theirs = None
        if not script:
            rpc, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        begun = time.monotonic()
        rpc_fd = -1 if theirs is None else theirs.fileno()
        pid = self.start_candidate(task, programs, rpc_fd, (stdin, used[0][1], used[-1][1]), lock, folder)
        if stdin != self.nothing:
            os.close(stdin)
        if own_pipes:
            for _, write in pipes:
                os.close(write)
        if theirs is not None:
            theirs.close()
            send_socket(self.judge_control, rpc)
            rpc.close()
        eyes = watch.Watch(self, mode, task["limits"], pid, [read for read, _ in used], begun)
        try:
            eyes.until_over()
        finally:
            report = eyes.end()
            if own_pipes:
                for read, _ in pipes:
                    os.close(read)
            else:
                for _, write in used:  # the pipe is the next child's too
                    os.set_blocking(write, True)
            if folder:
                cages.remove_folder(folder)
        self.cage.tidy()
        return report

    def serve(self) -> None:
        """Answer the supervisor until it hangs up."""
        if self.cage.settled:  # what its children inherit
            os.dup2(self.pipes[0][1], 1)
            os.dup2(self.pipes[0][1], 2)
        self.poll.register(self.control.sock, select.POLLHUP | getattr(select, "POLLRDHUP", 0))
        if self.judge_control is not None:
            self.judge_fd = self.judge_control.fileno()
        while True:
            try:
                task = self.control.receive()
            except EOFError:
                break
            self.run(task)

    def leave(self) -> None:
        """End the judge and remove the folder: the supervisor may have been killed."""
        if self.judge_pid:
            self.judge_control.close()  # the judge ends by itself; waiting counts its CPU time
            os.waitpid(self.judge_pid, 0)
        if self.cage.scratch:
            cages.remove_folder(self.cage.scratch)


def new_pipe() -> tuple[int, int]:
    """Return (read end that does not block, write end)."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    return read, write


def send_socket(over: _socket.socket, sock: _socket.socket) -> None:
    """Pass a socket to the process at the other end of `over`."""
    over.sendmsg([b"c"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, sock.fileno().to_bytes(4, sys.byteorder))])


def receive_socket(over: _socket.socket) -> _socket.socket | None:
    """Return the next socket passed over `over`, None when the other end is closed."""
    data, extra, _, _ = over.recvmsg(1, _socket.CMSG_SPACE(4))
    if not data or not extra:
        return None
    return _socket.socket(fileno=int.from_bytes(extra[0][2][:4], sys.byteorder))


def open_stdin(text: str, folder: str) -> int:
    """Return a descriptor from which `text` can be read."""
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


def dress_up() -> None:
    """Keep programs from importing the sandbox's modules by name, and give them the names `site` would."""
    for name in OWN_MODULES:
        sys.modules.pop(name, None)
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]


def main() -> None:
    """Enter the cage, warm up, say so, serve."""
    control_fd, verdict_fd, tier, uid, scratch, kind, readable, libraries = sys.argv[1:9]
    control = plaindata.Channel(_socket.socket(fileno=int(control_fd)), 1 << 30, "both", ahead=0)
    verdicts = _socket.socket(fileno=int(verdict_fd))
    del sys.path[0], sys.argv[1:]
    sys.setrecursionlimit(sys.getrecursionlimit() + OWN_FRAMES)
    try:
        cage = cages.Cage(tier, int(uid), scratch)
        sys.path += cage.enter(readable.split(os.pathsep), libraries.split(os.pathsep) if libraries else [])
        zygote = Zygote(control, verdicts, cage)
        if kind == "python":
            warm_up(zygote.modules)
            dress_up()
            leave_collector_out()
            zygote.start_judge()
            cage.settle()
        zygote_check(zygote)
    except (cages.CageError, OSError) as problem:
        control.send({"failed": str(problem)})
        return
    leave_collector_out()
    try:  # the supervisor may be gone already
        control.send({"ready": tier, "quick": cage.settled})
        zygote.serve()
    except (EOFError, BrokenPipeError, ConnectionError):
        pass
    zygote.leave()


def leave_collector_out() -> None:
    """Keep the collector's hands off everything made so far: it would copy the pages of all of it in every child."""
    gc.collect()
    gc.freeze()
    gc.disable()


def warm_up(modules: allow.Modules) -> None:
    """Do here once what every child will do: what is built, cached or specialised now is shared with it, not
    copied."""
    near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    here, there = plaindata.Channel(near, 1 << 20, "theirs"), plaindata.Channel(far, 1 << 20, "mine")
    tests = judge.Tests(("assert f([1, 2]) == f([1, 2])", "def check(g):\n    assert g((1,), k=1)"), "f", modules)
    tests.record()
    for own in (modules, modules, None, None):
        link = judge.Link(there)
        child = candidate.Candidate(here)
        child.prepare([WARM_PROGRAM], own, 1 << 16)
        number, frame = link.request("run", 0, tests.wanted, tests.tape.questions, sorted(tests.tape.kept))
        link.post(frame)
        nonce, verb, *rest = here.receive()
        child.answer(nonce, verb, rest)
        batch = judge._Batch(None, link, {"mode": "shared", "strict": True, "recorded": True})
        status, detail, *_ = batch.judge_reply(0, tests, number)
        if status != "pass":
            raise cages.CageError(f"the sandbox cannot judge its own first program: {status} {detail}")
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
        cages.remove_folder(folder)
    if text != "ok":
        raise cages.CageError(text or "a child died while giving up its rights")
