"""A program text in another language -> a compiled and running process, inside the cage.

Runs in the child after it gave up its rights. Where the child is the first process of its own pid namespace it stays
as the parent that buries orphans and reports the end of the program (the kernel keeps ordinary signals from a
namespace's first process, so a program in that place could not even abort); elsewhere it becomes the program. What it
reports goes over a descriptor that neither compiler nor program inherits.
"""

from __future__ import annotations

import os
import resource
import signal
from typing import Any

_LOG = ".compiler"
_LOG_BYTES = 16000


def run(program: str, plan: dict[str, Any], report_fd: int, stay: bool) -> int:
    """Compile and run; return the exit code for the child. `stay`: remain as the parent of the program."""
    os.set_inheritable(report_fd, False)
    here = os.getcwd()  # the one folder where it may write
    plan["environment"] |= {"HOME": here, "TMPDIR": here}
    with open(plan["source"], "w", encoding="utf-8", errors="surrogatepass", newline="") as handle:
        handle.write(program)
    if plan["compile"]:
        status = _compile(plan, report_fd)
        if status:
            return 1
        _make_executable(plan["run"][0])
    os.write(report_fd, b"run\n")
    if not stay:
        _become(plan["run"], plan, plan["address_bytes"], report_fd)
    pid = os.fork()
    if not pid:
        _become(plan["run"], plan, plan["address_bytes"], report_fd)
    status, cpu_s = _wait(pid)
    os.write(report_fd, f"ended {status} {cpu_s:.6f}\n".encode())
    return 0


def _compile(plan: dict[str, Any], report_fd: int) -> int:
    """Run the compiler, its words kept in a file; copy their end to stderr when it fails. Returns the wait status."""
    os.write(report_fd, b"compile\n")
    pid = os.fork()
    if not pid:
        log = os.open(_LOG, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _become(plan["compile"], plan, plan["compile_address_bytes"], report_fd)
    status, _ = _wait(pid)
    if status:
        with open(_LOG, "rb") as handle:
            text = handle.read(_LOG_BYTES)
        while text:
            text = text[os.write(2, text) :]
        os.write(report_fd, f"uncompiled {status}\n".encode())
    os.unlink(_LOG)
    return status


def _make_executable(path: str) -> None:
    """Copy a program the linker could not mark as executable (tier C refuses every change of modes) to one born so."""
    if os.path.isabs(path) or os.access(path, os.X_OK):
        return
    os.rename(path, path + ".plain")
    new = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700)
    with open(path + ".plain", "rb") as source, open(new, "wb") as target:
        target.write(source.read())
    os.unlink(path + ".plain")


def _become(command: list[str], plan: dict[str, Any], address_bytes: int, report_fd: int) -> None:
    """Replace this process by a command; report "gone" where that cannot be done."""
    try:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = address_bytes if hard == resource.RLIM_INFINITY else min(address_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, wanted))
        for one in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored in this interpreter, and that is inherited
            signal.signal(one, signal.SIG_DFL)
        os.execve(command[0], command, plan["environment"])
    except OSError as problem:
        os.write(report_fd, b"gone\n")
        os.write(2, f"{command[0]}: {problem.strerror}\n".encode())
    finally:
        os._exit(127)


def _wait(pid: int) -> tuple[int, float]:
    """Bury children until `pid` ends; return its wait status and CPU seconds (with its own buried children)."""
    while True:
        found, status, usage = os.wait4(-1, 0)
        if found == pid:
            return status, usage.ru_utime + usage.ru_stime
